/** Time that moves when a test says so, or at once. */

import type { Clock } from "everloop";

export class ManualClock implements Clock {
  time = 0;
  /** What `random` answers. */
  chance = 0.5;
  /** How long was waited, in order. */
  readonly waits: number[] = [];
  readonly #due = new Map<symbol, { at: number; run: () => void }>();

  /** `fast`: every wait of up to so many milliseconds is over as soon as it has begun. */
  constructor(readonly fast = 0) {}

  now(): number {
    return this.time;
  }

  random(): number {
    return this.chance;
  }

  after(milliseconds: number, run: () => void): () => void {
    const id = Symbol("timer");
    this.#due.set(id, { at: this.time + milliseconds, run });
    if (milliseconds <= this.fast) {
      this.waits.push(milliseconds);
      setImmediate(() => this.#due.has(id) && this.advance(milliseconds));
    }
    return () => this.#due.delete(id);
  }

  advance(milliseconds: number): void {
    this.time += milliseconds;
    for (const [id, { at, run }] of this.#due) {
      if (at <= this.time) {
        this.#due.delete(id);
        run();
      }
    }
  }
}
