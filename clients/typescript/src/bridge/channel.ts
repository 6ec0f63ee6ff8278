/**
 * The calls under way on one socket. Calls of one turn of the event loop leave in one write; answers settle their promises.
 *
 * A call that is given up (timeout, abort) rejects at once, and Python is told; `Abandoned` has it from then on. Calls that
 * block this thread go another way, `SynchronousCalls`, but take their numbers and places among all. While nothing is under
 * way, the socket does not keep Node running.
 */

import { performance } from "node:perf_hooks";
import { Abandoned, type Held, unlent } from "./abandoned.js";
import { Decoder } from "./decode.js";
import { Encoder } from "./encode.js";
import { BridgeError, BridgeOverloaded, BridgeTimeout, PythonError, type RaisedException } from "./errors.js";
import { Frames } from "./frames.js";
import type { Metrics, Outcome } from "./metrics.js";
import { BusyPoll } from "./polling.js";
import { Signals } from "./signals.js";
import { SynchronousCalls, type SyncSurroundings } from "./synchronous.js";
import { Answer, Ask, HEAD_SIZE, type Hello, type Link } from "./wire.js";

const NUMBERS = 2 ** 32;

export interface BridgeCallOptions {
  /** Milliseconds until the call is given up; 0 waits for ever, as does Infinity and what is longer than 24 days. */
  timeout?: number;
  signal?: AbortSignal;
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
export interface Surroundings extends SyncSurroundings {
  greeted?(hello: Hello): void;
  broken(): void;
}

/** What may wait for Python at once, and how it is waited for. */
export interface ChannelOptions {
  maxPending: number;
  maxPendingBytes: number;
  busyPoll: boolean;
}

export class Channel {
  /** What Python said of itself on this socket. */
  greeting: Hello | undefined;
  private readonly encoder: Encoder;
  private readonly decoder: Decoder;
  private readonly pending = new Map<number, Pending>();
  private bytes = 0;
  private readonly abandoned: Abandoned;
  private readonly synchronous: SynchronousCalls;
  /** Answers whose memory Python need not keep any more. */
  private readonly copied: number[] = [];
  private readonly signals = new Signals((number, reason) => this.giveUp(number, "cancelled", reason));
  private number = 0;
  private flushing = false;
  private readonly frames = new Frames();
  private readonly polling: BusyPoll;
  private over: Error | undefined;
  private readonly idle: (() => void)[] = [];
  private closing = false;

  constructor(
    private readonly link: Link,
    private readonly metrics: Metrics,
    private readonly options: ChannelOptions,
    private readonly surroundings: Surroundings,
  ) {
    const { memory } = surroundings;
    this.encoder = new Encoder(memory);
    this.decoder = new Decoder(memory);
    this.abandoned = new Abandoned(memory);
    this.polling = new BusyPoll(options.busyPoll, () => this.pending.size > 0);
    this.synchronous = new SynchronousCalls(metrics, surroundings, (path) => this.listen(path));
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
    return this.greeting !== undefined || this.synchronous.heard;
  }

  get pendingNow(): number {
    return this.pending.size;
  }

  get abandonedNow(): number {
    return this.abandoned.size + this.synchronous.abandoned.size;
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
    return this.synchronous.call(this.nextNumber(), module, fn, args, timeout);
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
    await this.synchronous.close();
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
    this.synchronous.abandoned.clear();
    void this.synchronous.close();
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
    const { maxPending, maxPendingBytes } = this.options;
    const waiting = this.pendingNow + this.abandonedNow;
    const bytes = this.bytes + this.abandoned.bytes + this.synchronous.abandoned.bytes;
    if (waiting >= maxPending || bytes >= maxPendingBytes) {
      this.metrics.overloaded();
      throw new BridgeOverloaded(
        waiting >= maxPending
          ? `${waiting} calls wait for Python already (maxPending)`
          : `arguments of ${bytes} bytes wait for Python already (maxPendingBytes)`,
      );
    }
  }

  private nextNumber(): number {
    do {
      this.number = (this.number + 1) % NUMBERS;
    } while (this.number === 0 || this.isTaken(this.number));
    return this.number;
  }

  private isTaken(number: number): boolean {
    return this.pending.has(number) || this.abandoned.has(number) || this.synchronous.abandoned.has(number);
  }

  private giveUp(number: number, outcome: Outcome, why: unknown): void {
    const call = this.pending.get(number);
    if (call === undefined) {
      return;
    }
    this.forget(number, call);
    this.abandoned.add(number, call);
    this.encoder.frame(Ask.cancel, number, (to) => to.value(null));
    this.flushSoon();
    this.metrics.settled(call.name, performance.now() - call.began, outcome);
    call.reject(why);
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
      this.polling.asked();
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

  /** Have Python take a second connection at `path`; written at once, for the caller is about to block. */
  private listen(path: string): void {
    // Past the encoder, which may be in the middle of a frame: of arguments whose getter makes this call.
    const encoder = new Encoder();
    encoder.frame(Ask.listen, 0, (to) => to.value(path));
    this.write(encoder);
  }

  private receive(data: Buffer): void {
    this.frames.add(data, this.answered);
    if (this.copied.length > 0) {
      this.flushSoon();
    }
  }

  /** One frame from Python. */
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
      this.abandoned.answered(kind, number);
      // Its memory is let go even though nobody waits for it.
      this.read(number, data, start);
      return;
    }
    this.forget(number, call);
    unlent(this.surroundings.memory, kind, call);
    const answer = this.read(number, data, start);
    const outcome = kind === Answer.result && !(answer instanceof Error) ? "succeeded" : "failed";
    const took = performance.now() - call.began;
    this.polling.answered(took);
    this.metrics.settled(call.name, took, outcome);
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
}
