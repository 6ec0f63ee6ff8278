/** What the bridge's benchmarks share: the bridge that they measure, percentiles, and loops of calls. */

import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import { type BridgeOptions, PolyglotBridge } from "everloop/bridge";

/** A call like most: a small object there, a small object back. */
export const SMALL = { user: "u-1842", features: [0.25, 0.5, 12], tags: ["new", "mobile"] };

/** The one argument of a benchmark's program is its settings, as JSON. */
export function settings<T>(defaults: T): T {
  return { ...defaults, ...JSON.parse(process.argv[2] ?? "{}") };
}

export function measured(options: BridgeOptions & { python?: string }): PolyglotBridge {
  const { python, ...rest } = options;
  const modulePath = fileURLToPath(new URL("../bench/modules", import.meta.url));
  return new PolyglotBridge({ modulePath, ...(python === undefined ? {} : { pythonPath: python }), ...rest });
}

export interface Spread {
  p50: number;
  p99: number;
}

/** Microseconds that `call` takes, one after another. */
export async function latency(call: () => Promise<unknown>, calls: number): Promise<Spread> {
  const took = new Float64Array(calls);
  for (let i = 0; i < calls; i++) {
    const began = performance.now();
    await call();
    took[i] = (performance.now() - began) * 1000;
  }
  return spread(took);
}

export function spread(values: Float64Array): Spread {
  const sorted = values.slice().sort();
  const at = (q: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99) };
}

/** Calls a second with `width` under way. */
export async function throughput(call: () => Promise<unknown>, calls: number, width: number): Promise<number> {
  let left = calls;
  const began = performance.now();
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (left > 0) {
        left -= 1;
        await call();
      }
    }),
  );
  return (calls * 1000) / (performance.now() - began);
}
