/**
 * Stays awake for an answer that is about to come: to fall asleep and be woken takes this thread longer than a quick answer.
 *
 * What it does meanwhile is turn the event loop, so that whatever else there is gets its turn. It does so for a tenth of a
 * millisecond at most, only while answers come faster than that, and not on a single core, which Python would have to wait for.
 */

import { availableParallelism } from "node:os";
import { performance } from "node:perf_hooks";
import { setImmediate } from "node:timers";

const QUICK_MS = 0.1;

export class BusyPoll {
  private readonly allowed: boolean;
  private quick = false;
  private turning = false;
  private until = 0;

  /** `waiting` tells whether any answer is still to come. */
  constructor(
    wanted: boolean,
    private readonly waiting: () => boolean,
    cores = availableParallelism(),
    private readonly now = () => performance.now(),
  ) {
    this.allowed = wanted && cores > 1;
  }

  /** A call has left. */
  asked(): void {
    if (this.quick) {
      this.until = this.now() + QUICK_MS;
      if (!this.turning) {
        this.turning = true;
        setImmediate(this.turn);
      }
    }
  }

  /** An answer has come, so many milliseconds after its call. */
  answered(took: number): void {
    this.quick = this.allowed && took < QUICK_MS;
  }

  private readonly turn = (): void => {
    this.turning = this.waiting() && this.now() < this.until;
    if (this.turning) {
      setImmediate(this.turn);
    }
  };
}
