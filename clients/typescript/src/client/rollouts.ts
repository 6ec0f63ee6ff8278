/** How a version comes to serve everybody: started, watched, promoted, taken back. */

import type { Call } from "./calls.js";
import { held } from "./errors.js";
import { sleep } from "./retries.js";
import type { CallOptions, Transport } from "./transport.js";
import type { RolloutInfo, RolloutSpec } from "./types.js";

export interface ChangeOptions extends CallOptions {
  /** Why. */
  note?: string | undefined;
  /** Only if the rollout is still at this revision; a `conflict` otherwise, because somebody has acted meanwhile. */
  revision?: number | undefined;
}

export interface WatchOptions {
  /** Milliseconds between two looks; 1,000. */
  interval?: number | undefined;
  /** Ends the iteration; it throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** The rollouts of one model. */
export class Rollouts {
  readonly #path: { model: string };

  constructor(
    private readonly call: Call,
    private readonly transport: Transport,
    model: string,
  ) {
    this.#path = { model };
  }

  /** Let a version prove itself: `{ version: 2, strategy: "canary", steps: "1%,5%,25%", samples: 500 }`. */
  start(spec: RolloutSpec, options: CallOptions = {}): Promise<RolloutInfo> {
    return this.call("POST", "/v1/models/{model}/rollout", { path: this.#path, body: spec, ...options });
  }

  /** The newest one, with what was seen of both versions and what each gate makes of it. */
  get(options: CallOptions = {}): Promise<RolloutInfo> {
    return this.call("GET", "/v1/models/{model}/rollout", { path: this.#path, ...options });
  }

  /** All of them, the newest last. */
  async list(options: CallOptions = {}): Promise<RolloutInfo[]> {
    return held(await this.call("GET", "/v1/models/{model}/rollouts", { path: this.#path, ...options }), "rollouts");
  }

  /** Each state of the newest rollout that differs from the one before, up to and with the one in which it has ended. */
  async *watch({ interval = 1000, signal }: WatchOptions = {}): AsyncGenerator<RolloutInfo, void, void> {
    let seen = "";
    while (true) {
      const info = await this.get({ signal });
      const now = JSON.stringify(info);
      if (now !== seen) {
        yield info;
        seen = now;
      }
      if (info.ended_at !== null) {
        return;
      }
      await sleep(this.transport.clock, interval, signal);
    }
  }

  /** The challenger serves everybody from now on. */
  promote(options: ChangeOptions = {}): Promise<RolloutInfo> {
    return this.call("POST", "/v1/models/{model}/rollout/promote", this.#change(options));
  }

  /** The champion serves everybody again, the challenger is `rejected`. */
  rollback(options: ChangeOptions = {}): Promise<RolloutInfo> {
    return this.call("POST", "/v1/models/{model}/rollout/rollback", this.#change(options));
  }

  /** Ends it without a verdict: the champion serves everybody, the challenger waits. */
  abort(options: ChangeOptions = {}): Promise<RolloutInfo> {
    return this.call("POST", "/v1/models/{model}/rollout/stop", this.#change(options));
  }

  /** Everybody stays where they are. */
  pause(options: ChangeOptions = {}): Promise<RolloutInfo> {
    return this.call("POST", "/v1/models/{model}/rollout/pause", this.#change(options));
  }

  resume(options: ChangeOptions = {}): Promise<RolloutInfo> {
    return this.call("POST", "/v1/models/{model}/rollout/resume", this.#change(options));
  }

  #change({ note = "", revision, ...options }: ChangeOptions) {
    const body = revision === undefined ? { note } : { note, revision };
    return { path: this.#path, body, ...options };
  }
}
