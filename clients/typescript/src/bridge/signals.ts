/** Which calls an abort signal ends: a signal that many calls share has one listener, not one for each. */

interface Followed {
  numbers: Set<number>;
  aborted(): void;
}

export class Signals {
  private readonly followed = new Map<AbortSignal, Followed>();

  /** `abort(number, reason)` is called for each followed call of a signal that is aborted. */
  constructor(private readonly abort: (number: number, reason: unknown) => void) {}

  follow(signal: AbortSignal, number: number): void {
    let followed = this.followed.get(signal);
    if (followed === undefined) {
      const numbers = new Set<number>();
      const aborted = () => {
        for (const each of [...numbers]) {
          this.abort(each, signal.reason);
        }
      };
      followed = { numbers, aborted };
      this.followed.set(signal, followed);
      signal.addEventListener("abort", aborted, { once: true });
    }
    followed.numbers.add(number);
  }

  unfollow(signal: AbortSignal, number: number): void {
    const followed = this.followed.get(signal);
    followed?.numbers.delete(number);
    if (followed?.numbers.size === 0) {
      signal.removeEventListener("abort", followed.aborted);
      this.followed.delete(signal);
    }
  }
}
