/** Counts and latencies of calls, in memory that does not grow with them. */

const BUCKETS_PER_DOUBLING = 8;
const SMALLEST_MS = 0.001;
const BUCKETS = 28 * BUCKETS_PER_DOUBLING;
const MOST_FUNCTIONS = 1000;

/** How long calls took, in milliseconds; percentiles are exact to one part in eleven. */
export interface Latency {
  mean: number;
  p50: number;
  p95: number;
  p99: number;
  max: number;
}

export interface FunctionMetrics {
  calls: number;
  errors: number;
  latencyMs: Latency;
}

export interface BridgeMetrics {
  /** Calls that were sent to Python. */
  calls: number;
  succeeded: number;
  /** Python raised. */
  failed: number;
  timedOut: number;
  cancelled: number;
  /** Calls that were refused because too many waited. */
  overloaded: number;
  /** Calls that wait for an answer now. */
  pending: number;
  /** Calls that were given up while Python still runs them. */
  abandoned: number;
  /** How often the Python process was started again. */
  restarts: number;
  latencyMs: Latency;
  functions: Record<string, FunctionMetrics>;
}

/** A histogram whose buckets grow by a twelfth each, from a microsecond to four minutes. */
class Histogram {
  private readonly counts = new Uint32Array(BUCKETS + 1);
  private count = 0;
  private sum = 0;
  private max = 0;

  add(ms: number): void {
    const bucket = Math.ceil(Math.log2(ms / SMALLEST_MS) * BUCKETS_PER_DOUBLING);
    const index = Math.min(BUCKETS, Math.max(0, bucket));
    this.counts[index] = (this.counts[index] as number) + 1;
    this.count += 1;
    this.sum += ms;
    this.max = Math.max(this.max, ms);
  }

  tell(): Latency {
    return {
      mean: this.count === 0 ? 0 : this.sum / this.count,
      p50: this.quantile(0.5),
      p95: this.quantile(0.95),
      p99: this.quantile(0.99),
      max: this.max,
    };
  }

  private quantile(q: number): number {
    let left = Math.ceil(this.count * q);
    for (let i = 0; i <= BUCKETS && left > 0; i++) {
      left -= this.counts[i] as number;
      if (left <= 0) {
        return Math.min(this.max, SMALLEST_MS * 2 ** (i / BUCKETS_PER_DOUBLING));
      }
    }
    return 0;
  }
}

interface OfFunction {
  calls: number;
  errors: number;
  latency: Histogram;
}

export type Outcome = "succeeded" | "failed" | "timedOut" | "cancelled";

export class Metrics {
  private counts = { calls: 0, succeeded: 0, failed: 0, timedOut: 0, cancelled: 0, overloaded: 0 };
  private all = new Histogram();
  private functions = new Map<string, OfFunction>();
  restarts = 0;

  overloaded(): void {
    this.counts.overloaded += 1;
  }

  settled(name: string, ms: number, outcome: Outcome): void {
    this.counts.calls += 1;
    this.counts[outcome] += 1;
    this.all.add(ms);
    let own = this.functions.get(name);
    if (own === undefined) {
      const key = this.functions.size < MOST_FUNCTIONS ? name : "(others)";
      own = this.functions.get(key) ?? { calls: 0, errors: 0, latency: new Histogram() };
      this.functions.set(key, own);
    }
    own.calls += 1;
    own.errors += outcome === "succeeded" ? 0 : 1;
    own.latency.add(ms);
  }

  tell(pending: number, abandoned: number): BridgeMetrics {
    const functions: Record<string, FunctionMetrics> = {};
    for (const [name, own] of this.functions) {
      functions[name] = { calls: own.calls, errors: own.errors, latencyMs: own.latency.tell() };
    }
    return { ...this.counts, pending, abandoned, restarts: this.restarts, latencyMs: this.all.tell(), functions };
  }

  reset(): void {
    this.counts = { calls: 0, succeeded: 0, failed: 0, timedOut: 0, cancelled: 0, overloaded: 0 };
    this.all = new Histogram();
    this.functions = new Map();
    this.restarts = 0;
  }
}
