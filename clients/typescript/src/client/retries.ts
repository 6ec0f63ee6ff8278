/**
 * When a request is sent again, and after how long.
 *
 * Theory of operation: two things are told apart. What the server certainly did not take (no connection, `overloaded`, `starting`,
 * `draining`, 429) may be sent again whatever it is. What it may have taken (a connection that broke, a proxy's 502) only where twice does
 * no harm: reads, predictions, and feedback, which carries an idempotency key. Between two attempts lies a random time up to a bound
 * that doubles ("full jitter": M. Brooker, Exponential Backoff And Jitter, 2015), so that clients which failed together do not come
 * back together; never less than the server's Retry-After.
 */

import type { EverloopError } from "./errors.js";

/** Time and chance, so that tests can do without either. */
export interface Clock {
  /** Milliseconds of a clock that never goes back. */
  now(): number;
  /** Runs something in so many milliseconds; the answer takes that back. */
  after(milliseconds: number, run: () => void): () => void;
  /** From 0 up to, not including, 1. */
  random(): number;
}

/** Node runs a timer of more milliseconds at once. */
const LONGEST_TIMER = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now(),
  after: (milliseconds, run) => {
    let timer: NodeJS.Timeout;
    const wait = (left: number) => {
      timer =
        left > LONGEST_TIMER
          ? setTimeout(wait, LONGEST_TIMER, left - LONGEST_TIMER)
          : setTimeout(run, Math.max(0, left));
    };
    wait(milliseconds);
    return () => clearTimeout(timer);
  },
  random: Math.random,
};

export interface Backoff {
  /** Upper bound of the wait before the first repeat, in milliseconds. */
  base: number;
  /** Upper bound of any wait of our own. */
  cap: number;
}

/** Milliseconds to wait before repeat number `attempt` (0, 1, 2 …). */
export function pause(attempt: number, backoff: Backoff, retryAfter: number | undefined, random: number): number {
  const own = random * Math.min(backoff.cap, backoff.base * 2 ** attempt);
  return (retryAfter ?? 0) * 1000 + own;
}

const NOT_TAKEN = new Set(["overloaded", "starting", "draining", "quota_exceeded"]);
/** Of servers and of proxies in front of them. */
const PASSING = new Set([408, 429, 502, 503, 504]);

/** Whether to send again what came to `error`. `harmless`: twice is as good as once. `sent`: whether the server may have got it. */
export function worthRepeating(error: EverloopError, harmless: boolean, sent: boolean): boolean {
  if (error.code === "unreachable") {
    return harmless || !sent;
  }
  if (NOT_TAKEN.has(error.code) || error.status === 429) {
    return true;
  }
  // Too late for the caller's own deadline is no matter of luck.
  return harmless && error.code !== "deadline_exceeded" && error.status !== undefined && PASSING.has(error.status);
}

/** Resolves after so many milliseconds; rejects with the signal's reason if that comes first. */
export function sleep(clock: Clock, milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const aborted = () => {
      cancel();
      reject(signal?.reason);
    };
    const cancel = clock.after(milliseconds, () => {
      signal?.removeEventListener("abort", aborted);
      resolve();
    });
    signal?.addEventListener("abort", aborted, { once: true });
  });
}
