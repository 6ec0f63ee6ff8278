/** A typed client of the everloop model server. */

export type { PredictOptions } from "./asking.js";
export type { Call } from "./calls.js";
export { type ClientOptions, EverloopClient } from "./client.js";
export { EverloopError } from "./errors.js";
export type { EventOptions } from "./events.js";
export {
  type FeedbackOptions,
  Model,
  type PublishOptions,
  type TimelineOptions,
} from "./model.js";
export type { Backoff, Clock } from "./retries.js";
export { type ChangeOptions, Rollouts, type WatchOptions } from "./rollouts.js";
export type { components, operations, paths } from "./schema.js";
export type { Answered, Refused, ScoreOptions } from "./score.js";
export { type AnalyzeBatchOptions, type AnalyzeOptions, type ClassifyOptions, Showcase } from "./showcase.js";
export type { CallOptions } from "./transport.js";
export type * from "./types.js";
