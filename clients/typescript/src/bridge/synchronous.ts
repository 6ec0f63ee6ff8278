/**
 * The calls of `callPythonSync`, one at a time on a connection of their own, which the first of them opens. Whatever else
 * comes there is done with here: memory that Python has let go of, and answers of calls that timed out before.
 */

import { performance } from "node:perf_hooks";
import { Abandoned, type Held, unlent } from "./abandoned.js";
import { Decoder } from "./decode.js";
import { Encoder } from "./encode.js";
import { BridgeCrashed, BridgeTimeout, PythonError, type RaisedException } from "./errors.js";
import type { Metrics, Outcome } from "./metrics.js";
import { SyncChannel } from "./sync.js";
import { Answer, Ask, HEAD_SIZE, type SharedMemory } from "./wire.js";

/** Where the calls are made: `syncBroken` is called if their connection ends unasked. */
export interface SyncSurroundings {
  memory?: SharedMemory;
  /** The process that Python is, where it is one of its own. */
  pid?: number | undefined;
  syncBroken?(): void;
}

export class SynchronousCalls {
  readonly abandoned: Abandoned;
  /** Whether Python has said anything on this connection or on one before it. */
  heard = false;
  private readonly decoder: Decoder;
  private connection: SyncChannel | undefined;

  /** `listen(path)` has Python take a connection there, and is done before it returns. */
  constructor(
    private readonly metrics: Metrics,
    private readonly surroundings: SyncSurroundings,
    private readonly listen: (path: string) => void,
  ) {
    const { memory } = surroundings;
    this.abandoned = new Abandoned(memory);
    this.decoder = new Decoder(memory);
  }

  /** Send a call and block this thread until its answer is there. */
  call(number: number, module: string, fn: string, args: unknown, timeout: number): unknown {
    const name = `${module}.${fn}`;
    const encoder = new Encoder(this.surroundings.memory);
    const bytes = encoder.frame(Ask.call, number, (to) => to.call(module, fn, args));
    const call: Held = { bytes, lent: encoder.lent };
    this.connection ??= new SyncChannel(this.surroundings.pid, this.listen, (frame) => this.stray(frame));
    const began = performance.now();
    this.connection.send(encoder.take());
    let outcome: Outcome = "timedOut";
    try {
      const frame = this.connection.receive(timeout, (each) => this.answers(each, number));
      if (frame === undefined) {
        this.send(Ask.cancel, number, null);
        this.abandoned.add(number, call);
        throw new BridgeTimeout(name, timeout);
      }
      const kind = kindOf(frame);
      outcome = kind === Answer.result ? "succeeded" : "failed";
      unlent(this.surroundings.memory, kind, call);
      const answer = this.read(frame);
      if (kind !== Answer.result) {
        throw new PythonError(answer as RaisedException);
      }
      return answer;
    } catch (error) {
      if (error instanceof BridgeCrashed) {
        outcome = "failed";
        this.broken();
      }
      throw error;
    } finally {
      this.metrics.settled(name, performance.now() - began, outcome);
    }
  }

  async close(): Promise<void> {
    await this.connection?.close();
  }

  /** Whether `frame` is the answer to `number`. */
  private answers(frame: Buffer, number: number): boolean {
    this.heard = true;
    if (numberOf(frame) === number) {
      return true;
    }
    this.stray(frame);
    return false;
  }

  /** A frame that no call waits for. */
  private stray(frame: Buffer): void {
    if (kindOf(frame) === Answer.released) {
      this.surroundings.memory?.released(this.decoder.decode(frame, HEAD_SIZE) as number[]);
    } else {
      this.abandoned.answered(kindOf(frame), numberOf(frame));
      this.release(frame);
    }
  }

  private read(frame: Buffer): unknown {
    try {
      return this.decoder.decode(frame, HEAD_SIZE);
    } finally {
      this.release(frame);
    }
  }

  /** What the answer lends, Python need not keep any more. */
  private release(frame: Buffer): void {
    if (this.surroundings.memory !== undefined) {
      this.send(Ask.release, 0, [numberOf(frame)]);
    }
  }

  private send(kind: number, number: number, value: unknown): void {
    const encoder = new Encoder();
    encoder.frame(kind, number, (to) => to.value(value));
    this.connection?.send(encoder.take());
  }

  /** The next call has another connection. */
  private broken(): void {
    void this.close();
    this.connection = undefined;
    this.abandoned.clear();
    this.surroundings.syncBroken?.();
  }
}

function kindOf(frame: Buffer): number {
  return frame[4] as number;
}

function numberOf(frame: Buffer): number {
  return frame.readUInt32LE(5);
}
