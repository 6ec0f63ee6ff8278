/** One model of the server, with the types of its rows and labels as its user knows them. */

import { randomUUID } from "node:crypto";
import { asking, type PredictOptions } from "./asking.js";
import type { Call } from "./calls.js";
import { foreign, held } from "./errors.js";
import { Rollouts } from "./rollouts.js";
import { type Answered, type Refused, type ScoreOptions, scoreAll } from "./score.js";
import type { CallOptions, Transport } from "./transport.js";
import type {
  EverloopEvent,
  Example,
  Features,
  FeedbackAnswer,
  ModelInfo,
  Prediction,
  Predictions,
  Scalar,
  VersionInfo,
  VersionRef,
} from "./types.js";

export interface FeedbackOptions extends CallOptions {
  /** The same key with the same examples counts once, however often it is sent. A new one a call where it is left out. */
  idempotencyKey?: string | undefined;
}

export interface PublishOptions extends CallOptions {
  /** What to call it, like `v2.0`. */
  name?: string | undefined;
  /** Why. */
  note?: string | undefined;
  /** Whether it serves everybody at once; it waits otherwise. */
  live?: boolean | undefined;
  /** The file's name, for messages. */
  file?: string | undefined;
}

export interface TimelineOptions extends CallOptions {
  /** Only what comes after the event of this id. */
  after?: number | undefined;
  limit?: number | undefined;
  /** The newest ones instead of the oldest. */
  latest?: boolean | undefined;
}

export class Model<Row extends object = Features, Label extends NonNullable<Scalar> = NonNullable<Scalar>> {
  readonly rollouts: Rollouts;
  readonly #call: Call;
  readonly #path: { model: string };

  constructor(
    call: Call,
    transport: Transport,
    readonly name: string,
  ) {
    this.#call = call;
    this.#path = { model: name };
    this.rollouts = new Rollouts(call, transport, name);
  }

  /** One row answered. */
  async predict(features: Row, options: PredictOptions = {}): Promise<Prediction<Label>> {
    const answer = (await this.#predict({ features: features as Features }, options)) as Prediction<Label>;
    held(answer, "prediction");
    return answer;
  }

  /** Many rows, all answered by one version. */
  async predictBatch(rows: readonly Row[], options: PredictOptions = {}): Promise<Predictions<Label>> {
    const answer = (await this.#predict({ instances: rows as unknown as Features[] }, options)) as Predictions<Label>;
    const { length } = held(answer, "predictions");
    if (length !== rows.length) {
      throw foreign(`it has ${length} predictions for ${rows.length} rows`);
    }
    return answer;
  }

  /** Any number of rows, answered in their order, several requests at a time; memory does not grow with them. */
  score(
    rows: Rows<Row>,
    options: ScoreOptions & { errors: "give" },
  ): AsyncGenerator<Answered<Row, Label> | Refused<Row>>;
  score(rows: Rows<Row>, options?: ScoreOptions): AsyncGenerator<Answered<Row, Label>>;
  score(rows: Rows<Row>, options: ScoreOptions = {}): AsyncGenerator<Answered<Row, Label> | Refused<Row>> {
    const { timeout, retries } = options;
    return scoreAll((batch, signal) => this.predictBatch(batch, { signal, timeout, retries }), rows, options);
  }

  /** Tell what was true. Resolves when it is durable; `rejected` says what was not taken, and why. */
  feedback(
    examples: Example<Row, Label> | readonly Example<Row, Label>[],
    { idempotencyKey = randomUUID(), ...options }: FeedbackOptions = {},
  ): Promise<FeedbackAnswer> {
    const body = { examples: (Array.isArray(examples) ? examples : [examples]) as Example[] };
    const header = { "Idempotency-Key": idempotencyKey };
    return this.#call("POST", "/v1/models/{model}/feedback", {
      path: this.#path,
      header,
      body,
      harmless: true,
      ...options,
    });
  }

  /** Schema, quality, drift, traffic, learner. */
  info(options: CallOptions = {}): Promise<ModelInfo> {
    return this.#call("GET", "/v1/models/{model}", { path: this.#path, ...options });
  }

  /** Fit now instead of waiting for the loop; resolves when the fit is done. */
  train(options: CallOptions = {}) {
    return this.#call("POST", "/v1/models/{model}/train", { path: this.#path, ...options });
  }

  /** Removes it with its versions and examples. */
  async delete(options: CallOptions = {}): Promise<void> {
    await this.#call("DELETE", "/v1/models/{model}", { path: this.#path, ...options });
  }

  /** Oldest first. */
  async versions(options: CallOptions = {}): Promise<VersionInfo[]> {
    const answer = await this.#call("GET", "/v1/models/{model}/versions", { path: this.#path, ...options });
    return held(answer, "versions");
  }

  version(version: VersionRef, options: CallOptions = {}): Promise<VersionInfo> {
    const path = { ...this.#path, version: String(version) };
    return this.#call("GET", "/v1/models/{model}/versions/{version}", { path, ...options });
  }

  /** Hand in a model file (ONNX, skops …) as the next version. The same bytes again are the version that is there. */
  publish(
    file: Uint8Array,
    { name, note, live, file: fileName, ...options }: PublishOptions = {},
  ): Promise<VersionInfo> {
    return this.#call("POST", "/v1/models/{model}/versions", {
      path: this.#path,
      query: { name, note, live, file: fileName },
      body: file,
      harmless: true, // the same bytes again are the version that is there
      ...options,
    });
  }

  /** Make a version the one that serves. */
  promote(version: VersionRef, { note = "", ...options }: CallOptions & { note?: string } = {}): Promise<VersionInfo> {
    const body = { version, note };
    return this.#call("POST", "/v1/models/{model}/promote", { path: this.#path, body, ...options });
  }

  /** Undo what came last: a rollout that is under way, else a split of the traffic, else the last promotion. */
  rollback({ note = "", ...options }: CallOptions & { note?: string } = {}) {
    const body = { note };
    return this.#call("POST", "/v1/models/{model}/rollback", { path: this.#path, body, ...options });
  }

  /** What happened to it: fits, drift, swaps, rollouts. */
  async timeline({ after, limit, latest, ...options }: TimelineOptions = {}): Promise<EverloopEvent[]> {
    const query = { after, limit, latest };
    return held(
      await this.#call("GET", "/v1/models/{model}/timeline", { path: this.#path, query, ...options }),
      "events",
    );
  }

  /** The body's `unit` may be any text, a header's may not; so it goes there. */
  #predict(body: { features: Features } | { instances: Features[] }, { unit, ...options }: PredictOptions) {
    return this.#call("POST", "/v1/models/{model}/predict", {
      path: this.#path,
      body: unit === undefined ? body : { ...body, unit },
      ...asking(options),
    });
  }
}

type Rows<Row> = AsyncIterable<Row> | Iterable<Row>;
