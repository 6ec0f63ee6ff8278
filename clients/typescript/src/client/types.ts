/** Names for the shapes of the server's OpenAPI document that programs speak of. */

import type { components } from "./schema.js";

/** Every shape of the server by its name, e.g. `Schemas["ModelInfo"]`. */
export type Schemas = components["schemas"];

export type Scalar = number | string | boolean | null;
/** One row: a list in the schema's order, or an object by name. */
export type Features = Scalar[] | { [field: string]: Scalar };

export type Prediction<Label = NonNullable<Scalar>> = Omit<Schemas["PredictionAnswer"], "prediction"> & {
  prediction: Label;
};
export type Predictions<Label = NonNullable<Scalar>> = Omit<Schemas["PredictionsAnswer"], "predictions"> & {
  predictions: Label[];
};

/** What was true: of an answer that was given (`request_id`, with `index` for one row of several), or of `features`. */
export type Example<Row = Features, Label = NonNullable<Scalar>> = Omit<
  Schemas["LabelledExample"],
  "features" | "label"
> & {
  label: Label;
  features?: Row | null;
};

export type FeedbackAnswer = Schemas["FeedbackAnswer"];
export type ModelInfo = Schemas["ModelInfo"];
export type ModelSpec = Schemas["ModelSpec"];
export type ModelSummary = Schemas["ModelSummary"];
export type VersionInfo = Schemas["VersionInfo"];
export type EverloopEvent = Schemas["EventInfo"];
export type RolloutInfo = Schemas["RolloutInfo"];
export type RolloutSpec = Schemas["RolloutSpec"];
/** A version by its number, name or alias, or as `champion` or `challenger`. */
export type VersionRef = number | string;
