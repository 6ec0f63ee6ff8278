/** The models behind the routes: how they are asked, whether they are ready, how often and how fast they answered. */

import { performance } from "node:perf_hooks";

/** Asks a function of a Python module. The server asks through the bridge; the benchmark's peer over HTTP. */
export type Ask = (module: string, fn: string, args: object) => Promise<unknown>;

export const MODULES = { sentiment: "sentiment_model", image: "image_classifier", recommender: "recommender" } as const;
export type ModelName = keyof typeof MODULES;
export const NAMES = Object.keys(MODULES) as ModelName[];

export type State = "loading" | "ready" | "failed";

export class NotReady extends Error {
  constructor(
    readonly model: ModelName,
    readonly state: State,
  ) {
    super(`the model ${model} is ${state === "loading" ? "not ready yet" : "not there: it could not be loaded"}`);
  }
}

export class Models {
  private readonly states = new Map<ModelName, State>(NAMES.map((name) => [name, "loading"]));
  private readonly counts = new Map(NAMES.map((name) => [name, { calls: 0, milliseconds: 0 }]));

  constructor(private readonly call: Ask) {}

  /** Loads each, so that the first request is as fast as all others. One that fails leaves the others be. */
  async warmUp(failed: (model: ModelName, error: unknown) => void): Promise<void> {
    for (const name of NAMES) {
      try {
        await this.call(MODULES[name], "warmup", {});
        this.states.set(name, "ready");
      } catch (error) {
        this.states.set(name, "failed");
        failed(name, error);
      }
    }
  }

  get state(): Record<ModelName, State> {
    return Object.fromEntries(this.states) as Record<ModelName, State>;
  }

  get counted(): Record<ModelName, { calls: number; milliseconds: number }> {
    return Object.fromEntries(this.counts) as Record<ModelName, { calls: number; milliseconds: number }>;
  }

  /** The model's answer, with how long it took from here. Throws NotReady, and what the call rejects with. */
  async ask<T extends object>(name: ModelName, fn: string, args: object): Promise<T & { latency_ms: number }> {
    const state = this.states.get(name);
    if (state !== "ready") {
      throw new NotReady(name, state ?? "failed");
    }
    const began = performance.now();
    const answer = (await this.call(MODULES[name], fn, args)) as T & { latency_ms: number };
    const took = performance.now() - began;
    const count = this.counts.get(name);
    if (count !== undefined) {
      count.calls += 1;
      count.milliseconds += took;
    }
    answer.latency_ms = Math.round(took * 1000) / 1000;
    return answer;
  }
}
