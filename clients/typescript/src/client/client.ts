/** The client of one server. */

import type { Dispatcher } from "undici";
import type { PredictOptions } from "./asking.js";
import { type Call, calls } from "./calls.js";
import { held } from "./errors.js";
import { type EventOptions, follow } from "./events.js";
import { type FeedbackOptions, Model } from "./model.js";
import { type Backoff, type Clock, systemClock } from "./retries.js";
import type { ScoreOptions } from "./score.js";
import { Showcase } from "./showcase.js";
import { type CallOptions, Transport } from "./transport.js";
import type { EverloopEvent, Example, Features, ModelInfo, ModelSpec, ModelSummary, Scalar, Schemas } from "./types.js";

export interface ClientOptions {
  /** Where the server is; `http://127.0.0.1:3000`. A path in it goes before every other. */
  url?: string | URL | undefined;
  /** A key, where the server asks for one. */
  apiKey?: string | undefined;
  /** Milliseconds for a whole call, its repeats included; 30,000. 0 or Infinity: no end. */
  timeout?: number | undefined;
  /** How often a call is sent again at most, where that is safe; 3. */
  retries?: number | undefined;
  /** Bounds of the waits between attempts, in milliseconds; `{ base: 100, cap: 10_000 }`. */
  backoff?: Partial<Backoff> | undefined;
  /** Connections that are open at once at most; 64. */
  connections?: number | undefined;
  /** An undici dispatcher in the place of the client's own connections: a proxy, certificates of one's own, a MockAgent. Not closed by `close`. */
  dispatcher?: Dispatcher | undefined;
  /** Time and chance, for tests. */
  clock?: Clock | undefined;
}

export class EverloopClient {
  /** Any operation of the server, typed by its OpenAPI document. */
  readonly call: Call;
  /** Texts, images and recommendations, where the server has models behind those routes. */
  readonly showcase: Showcase;
  readonly #transport: Transport;
  readonly #prefix: string;

  constructor({
    url = "http://127.0.0.1:3000",
    apiKey,
    timeout = 30_000,
    retries = 3,
    backoff,
    connections = 64,
    dispatcher,
    clock = systemClock,
  }: ClientOptions = {}) {
    const at = parsed(url);
    for (const [name, value, least] of [
      ["timeout", timeout, 0],
      ["retries", retries, 0],
      ["connections", connections, 1],
    ] as const) {
      if (!(value >= least) || (value === Number.POSITIVE_INFINITY && name !== "timeout")) {
        throw new RangeError(`${name}: expected a number of at least ${least}, got ${value}`);
      }
    }
    if (apiKey !== undefined && !/^[\x21-\x7e]+$/.test(apiKey)) {
      throw new TypeError("apiKey: has characters that a header cannot carry, or none");
    }
    const bounds = { base: 100, cap: 10_000, ...backoff };
    const options = { url: at, apiKey, timeout, retries, backoff: bounds, connections, dispatcher, clock };
    this.#transport = new Transport(options);
    this.#prefix = at.pathname.replace(/\/+$/, "");
    this.call = calls(this.#transport, this.#prefix);
    this.showcase = new Showcase(this.call);
  }

  /** One model, with the types of its rows and labels: `client.model<{ size: number }, number>("price")`. Asks nobody. */
  model<Row extends object = Features, Label extends NonNullable<Scalar> = NonNullable<Scalar>>(
    name: string,
  ): Model<Row, Label> {
    return new Model(this.call, this.#transport, name);
  }

  predict<Label extends NonNullable<Scalar> = NonNullable<Scalar>>(
    model: string,
    features: Features,
    options?: PredictOptions,
  ) {
    return this.model<Features, Label>(model).predict(features, options);
  }

  predictBatch<Label extends NonNullable<Scalar> = NonNullable<Scalar>>(
    model: string,
    rows: readonly Features[],
    options?: PredictOptions,
  ) {
    return this.model<Features, Label>(model).predictBatch(rows, options);
  }

  feedback(model: string, examples: Example | readonly Example[], options?: FeedbackOptions) {
    return this.model(model).feedback(examples, options);
  }

  score(model: string, rows: AsyncIterable<Features> | Iterable<Features>, options?: ScoreOptions) {
    return this.model(model).score(rows, options);
  }

  async models(options: CallOptions = {}): Promise<ModelSummary[]> {
    return held(await this.call("GET", "/v1/models", options), "models");
  }

  /** Register a model that will learn from feedback; the same specification again is the model that is there. */
  createModel(spec: ModelSpec, options: CallOptions = {}): Promise<ModelInfo> {
    return this.call("POST", "/v1/models", { body: spec, harmless: true, ...options });
  }

  /** What happens to models, as it happens: `for await (const event of client.events())`. Comes back by itself and misses nothing. */
  events(options: EventOptions = {}): AsyncGenerator<EverloopEvent, void, void> {
    return follow(this.#transport, this.#prefix, options);
  }

  /** How the server and its parts are; rejects where it says that it is not well (503). */
  health(options: CallOptions = {}): Promise<Schemas["Health"]> {
    return this.call("GET", "/health", options);
  }

  /** Waits for what is under way and closes the connections. A client that is not used keeps no program from ending, closed or not. */
  close(): Promise<void> {
    return this.#transport.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function parsed(url: string | URL): URL {
  const at = URL.canParse(String(url)) ? new URL(url) : undefined;
  if (at === undefined || !["http:", "https:"].includes(at.protocol)) {
    throw new TypeError(`url: expected something like http://127.0.0.1:3000, got ${JSON.stringify(String(url))}`);
  }
  if (at.username || at.password || at.search || at.hash) {
    throw new TypeError("url: expected a server's address without user, query or fragment; a key goes into apiKey");
  }
  return at;
}
