/**
 * Calls that were given up (timeout, abort), until Python has answered them: until then they may hold one of Python's threads,
 * and Python may look at what they lent. So their numbers stay taken, and they count among what waits for Python.
 */

import { Answer, type SharedMemory } from "./wire.js";

/** What Python has of a call until it has answered it, waited for or not. */
export interface Held {
  /** Of its arguments. */
  bytes: number;
  /** Pins of the memory that they lend. */
  lent: readonly number[];
}

export class Abandoned {
  /** Of the arguments of them all. */
  bytes = 0;
  private readonly calls = new Map<number, Held>();

  constructor(private readonly memory: SharedMemory | undefined) {}

  get size(): number {
    return this.calls.size;
  }

  has(number: number): boolean {
    return this.calls.has(number);
  }

  add(number: number, call: Held): void {
    this.calls.set(number, call);
    this.bytes += call.bytes;
  }

  /** Python has answered `number`, which may be of none of them. */
  answered(kind: number, number: number): void {
    const call = this.calls.get(number);
    if (call !== undefined) {
      this.calls.delete(number);
      this.bytes -= call.bytes;
      unlent(this.memory, kind, call);
    }
  }

  /** No answer comes any more. */
  clear(): void {
    this.calls.clear();
    this.bytes = 0;
  }
}

/** A call that Python could not read has given it nothing to look at. */
export function unlent(memory: SharedMemory | undefined, kind: number, { lent }: Held): void {
  if (kind === Answer.unread && lent.length > 0) {
    memory?.released(lent);
  }
}
