/**
 * The calls under way on one socket. Calls of one turn of the event loop leave in one write; answers settle their promises.
 *
 * A call that is given up (timeout, abort) rejects at once, and Python is told; its number stays taken until Python has
 * answered it, because until then it may hold one of Python's threads. While nothing is under way, the socket does not keep
 * Node running.
 */

import { performance } from "node:perf_hooks";
import { Decoder } from "./decode.js";
import { Encoder } from "./encode.js";
import {
  BridgeCrashed,
  BridgeError,
  BridgeOverloaded,
  BridgeTimeout,
  PythonError,
  type RaisedException,
} from "./errors.js";
import { Frames } from "./frames.js";
import type { Metrics, Outcome } from "./metrics.js";
import { Signals } from "./signals.js";
import { SyncChannel } from "./sync.js";
import { Answer, Ask, HEAD_SIZE, type Hello, type Link, type SharedMemory } from "./wire.js";

const NUMBERS = 2 ** 32;

export interface BridgeCallOptions {
  /** Milliseconds until the call is given up; 0 waits for ever, as does Infinity and what is longer than 24 days. */
  timeout?: number;
  signal?: AbortSignal;
}

/** What Python has of a call until it has answered it, waited for or not. */
interface Held {
  /** Of its arguments. */
  bytes: number;
  /** Pins of the memory that they lend. */
  lent: readonly number[];
  /** On the connection of `callPythonSync`. */
  sync?: boolean;
}

interface Pending extends Held {
  name: string;
  began: number;
  resolve(value: unknown): void;
  reject(error: unknown): void;
  timer: NodeJS.Timeout | undefined;
  signal: AbortSignal | undefined;
}

/** What a channel tells, and where it is: `broken` is called if the socket ends unasked. */
export interface Surroundings {
  memory?: SharedMemory;
  /** The process that Python is, where it is one of its own. */
  pid?: number | undefined;
  greeted?(hello: Hello): void;
  broken(): void;
  /** The same of the socket of `callPythonSync`. */
  syncBroken?(): void;
}

/** What may wait for Python at once. */
export interface Limits {
  maxPending: number;
  maxPendingBytes: number;
}

export class Channel {
  /** What Python said of itself on this socket. */
  greeting: Hello | undefined;
  private readonly encoder: Encoder;
  private readonly decoder: Decoder;
  private readonly pending = new Map<number, Pending>();
  private readonly abandoned = new Map<number, Held>();
  private bytes = 0;
  /** Answers whose memory Python need not keep any more. */
  private readonly copied: number[] = [];
  private readonly signals = new Signals((number, reason) => this.giveUp(number, "cancelled", reason));
  private number = 0;
  private flushing = false;
  private readonly frames = new Frames();
  private over: Error | undefined;
  private readonly idle: (() => void)[] = [];
  private sync: SyncChannel | undefined;
  private closing = false;
  private answeredSync = false;

  constructor(
    private readonly link: Link,
    private readonly metrics: Metrics,
    private readonly limits: Limits,
    private readonly surroundings: Surroundings,
  ) {
    const { memory } = surroundings;
    this.encoder = new Encoder(memory);
    this.decoder = new Decoder(memory);
    link.reading((data) => this.receive(data));
    const { socket } = link;
    // An error is always followed by "close".
    socket.on("error", () => undefined);
    socket.on("close", () => {
      if (this.over === undefined && !this.closing) {
        surroundings.broken();
      }
    });
    socket.unref();
  }

  /** Whether Python has said anything. */
  get ready(): boolean {
    return this.greeting !== undefined || this.answeredSync;
  }

  get pendingNow(): number {
    return this.pending.size;
  }

  get abandonedNow(): number {
    return this.abandoned.size;
  }

  /** Send a call; the promise is that of its answer. */
  call(module: string, fn: string, args: unknown, options: BridgeCallOptions): Promise<unknown> {
    return this.ask(Ask.call, `${module}.${fn}`, options, (to) => to.call(module, fn, args));
  }

  warmup(modules: readonly string[], options: BridgeCallOptions): Promise<unknown> {
    return this.ask(Ask.warmup, "warmup", options, (to) => to.value(modules));
  }

  /** Call and block this thread until the answer is there. */
  callSync(module: string, fn: string, args: unknown, timeout: number): unknown {
    if (this.over !== undefined) {
      throw this.over;
    }
    this.checkLimits();
    const number = this.nextNumber();
    const name = `${module}.${fn}`;
    const encoder = new Encoder(this.surroundings.memory);
    const bytes = encoder.frame(Ask.call, number, (to) => to.call(module, fn, args));
    this.sync ??= new SyncChannel(
      this.surroundings.pid,
      (path) => this.listen(path),
      (frame) => void this.isSyncAnswer(frame),
    );
    const began = performance.now();
    this.sync.send(encoder.take());
    let outcome = "timedOut" as Outcome;
    try {
      let value: unknown;
      const answered = this.sync.receive(timeout, (frame) => {
        this.answeredSync = true;
        if (!this.isSyncAnswer(frame, number)) {
          return false;
        }
        const kind = frame[4] as number;
        outcome = kind === Answer.result ? "succeeded" : "failed";
        this.unlent(kind, encoder.lent);
        try {
          value = this.decoder.decode(frame, HEAD_SIZE);
        } finally {
          this.releaseSync(frame);
        }
        return true;
      });
      if (!answered) {
        this.sendSync(Ask.cancel, number, null);
        this.abandon(number, { bytes, lent: encoder.lent, sync: true });
        throw new BridgeTimeout(name, timeout);
      }
      if (outcome !== "succeeded") {
        throw new PythonError(value as RaisedException);
      }
      return value;
    } catch (error) {
      if (error instanceof BridgeCrashed) {
        outcome = "failed";
        void this.sync.close();
        this.sync = undefined;
        this.forgetSync();
        this.surroundings.syncBroken?.();
      }
      throw error;
    } finally {
      this.metrics.settled(name, performance.now() - began, outcome);
      this.flushSoon();
    }
  }

  /** Whether `frame` answers the call of that number; everything else that comes on the same socket is done with here. */
  private isSyncAnswer(frame: Buffer, number?: number): boolean {
    if (frame[4] === Answer.released) {
      this.surroundings.memory?.released(this.decoder.decode(frame, HEAD_SIZE) as number[]);
      return false;
    }
    const answers = frame.readUInt32LE(5) === number;
    if (!answers) {
      // Of a call that timed out before.
      this.answeredLate(frame[4] as number, frame.readUInt32LE(5));
      this.releaseSync(frame);
    }
    return answers;
  }

  private releaseSync(frame: Buffer): void {
    if (this.surroundings.memory !== undefined) {
      this.sendSync(Ask.release, 0, [frame.readUInt32LE(5)]);
    }
  }

  private sendSync(kind: number, number: number, value: unknown): void {
    const encoder = new Encoder();
    encoder.frame(kind, number, (to) => to.value(value));
    this.sync?.send(encoder.take());
  }

  /** Have Python take a second connection at `path`; written at once, for the caller is about to block. */
  private listen(path: string): void {
    // Past the encoder, which may be in the middle of a frame: of arguments whose getter makes this call.
    const encoder = new Encoder();
    encoder.frame(Ask.listen, 0, (to) => to.value(path));
    this.write(encoder);
  }

  /** Resolves once no call is under way, or after `milliseconds`. */
  drained(milliseconds: number): Promise<void> {
    if (this.pending.size === 0) {
      return Promise.resolve();
    }
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.idle.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  /** Give up what is under way; Python runs its exit hooks and closes its end, within `milliseconds` or without us. */
  async close(milliseconds: number, why: Error): Promise<void> {
    await this.sync?.close();
    if (this.over === undefined) {
      this.rejectAll(why);
      await new Promise<void>((resolve) => {
        this.closing = true;
        const timer = setTimeout(resolve, milliseconds);
        this.link.socket.once("close", () => {
          clearTimeout(timer);
          resolve();
        });
        this.encoder.frame(Ask.close, 0, () => undefined);
        this.flush();
        this.link.socket.ref();
      });
    }
    this.end(why);
  }

  /** Reject everything with `why` and let the socket go. */
  end(why: Error): void {
    this.rejectAll(why);
    this.abandoned.clear();
    void this.sync?.close();
    this.link.socket.destroy();
  }

  private rejectAll(why: Error): void {
    this.over ??= why;
    for (const [number, call] of [...this.pending]) {
      this.forget(number, call);
      this.metrics.settled(call.name, performance.now() - call.began, "failed");
      call.reject(why);
    }
  }

  private ask(kind: number, name: string, options: BridgeCallOptions, write: (to: Encoder) => void): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.over !== undefined) {
        throw this.over;
      }
      const { timeout = 0, signal } = options;
      signal?.throwIfAborted();
      this.checkLimits();
      const number = this.nextNumber();
      // Before it is noted: arguments that cannot be sent leave nothing behind.
      const bytes = this.encoder.frame(kind, number, write);
      const { lent } = this.encoder;
      const call: Pending = { name, began: performance.now(), bytes, lent, resolve, reject, timer: undefined, signal };
      this.bytes += bytes;
      if (timeout > 0) {
        call.timer = setTimeout(() => this.giveUp(number, "timedOut", new BridgeTimeout(name, timeout)), timeout);
      }
      if (signal !== undefined) {
        this.signals.follow(signal, number);
      }
      if (this.pending.size === 0) {
        this.link.socket.ref();
      }
      this.pending.set(number, call);
      this.flushSoon();
    });
  }

  private checkLimits(): void {
    const { maxPending, maxPendingBytes } = this.limits;
    const waiting = this.pending.size + this.abandoned.size;
    if (waiting >= maxPending || this.bytes >= maxPendingBytes) {
      this.metrics.overloaded();
      throw new BridgeOverloaded(
        waiting >= maxPending
          ? `${waiting} calls wait for Python already (maxPending)`
          : `arguments of ${this.bytes} bytes wait for Python already (maxPendingBytes)`,
      );
    }
  }

  private nextNumber(): number {
    do {
      this.number = (this.number + 1) % NUMBERS;
    } while (this.number === 0 || this.pending.has(this.number) || this.abandoned.has(this.number));
    return this.number;
  }

  private giveUp(number: number, outcome: Outcome, why: unknown): void {
    const call = this.pending.get(number);
    if (call === undefined) {
      return;
    }
    this.forget(number, call);
    this.abandon(number, call);
    this.encoder.frame(Ask.cancel, number, (to) => to.value(null));
    this.flushSoon();
    this.metrics.settled(call.name, performance.now() - call.began, outcome);
    call.reject(why);
  }

  private abandon(number: number, call: Held): void {
    this.abandoned.set(number, call);
    this.bytes += call.bytes;
  }

  private answeredLate(kind: number, number: number): void {
    const given = this.abandoned.get(number);
    if (given !== undefined) {
      this.abandoned.delete(number);
      this.bytes -= given.bytes;
      this.unlent(kind, given.lent);
    }
  }

  /** The connection on which these would be answered has ended. */
  private forgetSync(): void {
    for (const [number, { sync }] of this.abandoned) {
      if (sync) {
        this.answeredLate(Answer.cancelled, number);
      }
    }
  }

  private forget(number: number, call: Pending): void {
    this.pending.delete(number);
    this.bytes -= call.bytes;
    if (call.timer !== undefined) {
      clearTimeout(call.timer);
    }
    if (call.signal !== undefined) {
      this.signals.unfollow(call.signal, number);
    }
    if (this.pending.size === 0) {
      this.link.socket.unref();
      for (const done of this.idle.splice(0)) {
        done();
      }
    }
  }

  private flushSoon(): void {
    if (!this.flushing) {
      this.flushing = true;
      // After all promises that this turn settles: what they call leaves with it.
      process.nextTick(() => this.flush());
    }
  }

  private flush(): void {
    this.flushing = false;
    if (this.copied.length > 0) {
      const pins = this.copied.splice(0);
      this.encoder.frame(Ask.release, 0, (to) => to.value(pins));
    }
    if (this.encoder.size > 0) {
      this.write(this.encoder);
    }
  }

  private write(frames: Encoder): void {
    const { socket, writeNow } = this.link;
    if (socket.destroyed) {
      return;
    }
    const written = writeNow !== undefined && socket.writableLength === 0 ? writeNow(frames.look()) : 0;
    if (written === frames.size) {
      frames.clear();
    } else {
      socket.write(frames.take().subarray(written));
    }
  }

  private receive(data: Buffer): void {
    this.frames.add(data, this.answered);
    if (this.copied.length > 0) {
      this.flushSoon();
    }
  }

  /** One frame from Python, of this channel's socket or of the one that `callPythonSync` blocks on. */
  private readonly answered = (kind: number, number: number, data: Buffer, frame: number): void => {
    const start = frame + HEAD_SIZE;
    switch (kind) {
      case Answer.hello:
        this.greeting = this.decoder.decode(data, start) as Hello;
        this.surroundings.greeted?.(this.greeting);
        return;
      case Answer.released:
        this.surroundings.memory?.released(this.decoder.decode(data, start) as number[]);
        return;
      case Answer.closed:
        return; // Its socket closes next.
    }
    const call = this.pending.get(number);
    if (call === undefined) {
      this.answeredLate(kind, number);
      // Its memory is let go even though nobody waits for it.
      this.read(number, data, start);
      return;
    }
    this.forget(number, call);
    this.unlent(kind, call.lent);
    const answer = this.read(number, data, start);
    const outcome = kind === Answer.result && !(answer instanceof Error) ? "succeeded" : "failed";
    this.metrics.settled(call.name, performance.now() - call.began, outcome);
    if (answer instanceof Error) {
      call.reject(answer);
    } else if (kind === Answer.result) {
      call.resolve(answer);
    } else if (kind === Answer.cancelled) {
      call.reject(new BridgeError("CANCELLED", `Python gave up ${call.name}`));
    } else {
      call.reject(new PythonError(answer as RaisedException));
    }
  };

  private read(number: number, data: Buffer, start: number): unknown {
    let answer: unknown;
    try {
      answer = this.decoder.decode(data, start);
    } catch (error) {
      answer = error instanceof Error ? error : new BridgeError("PROTOCOL", String(error));
    }
    if (this.decoder.lends) {
      this.copied.push(number);
    }
    return answer;
  }

  /** A call that Python could not read has given it nothing to look at. */
  private unlent(kind: number, pins: readonly number[]): void {
    if (kind === Answer.unread && pins.length > 0) {
      this.surroundings.memory?.released(pins);
    }
  }
}
