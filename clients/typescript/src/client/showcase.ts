/** The routes about texts, images and users, where the server has models behind them (`everloop serve --showcase`). */

import { asking, type PredictOptions } from "./asking.js";
import type { Call } from "./calls.js";
import { held } from "./errors.js";
import type { CallOptions } from "./transport.js";
import type { Schemas } from "./types.js";

export interface AnalyzeOptions extends PredictOptions {
  /** Also the probability of every label, and the words that mattered. */
  detailed?: boolean | undefined;
}

export interface AnalyzeBatchOptions extends AnalyzeOptions {
  /** Which model of texts to ask. */
  model?: string | undefined;
}

export interface ClassifyOptions extends PredictOptions {
  /** How many labels to tell, the likeliest first; 5. */
  topK?: number | undefined;
}

export class Showcase {
  constructor(private readonly call: Call) {}

  /** Whether a text is positive, negative or neutral. */
  analyze(text: string, { detailed = false, ...options }: AnalyzeOptions = {}): Promise<Schemas["SentimentAnswer"]> {
    const body = { text, options: { detailed } };
    return this.call("POST", "/api/predict/sentiment", { body, ...asking(options) });
  }

  /** Up to 100 texts at once, answered in their order. */
  analyzeBatch(
    texts: readonly string[],
    { detailed = false, model, ...options }: AnalyzeBatchOptions = {},
  ): Promise<Schemas["SentimentsAnswer"]> {
    const body = { texts: [...texts], options: { detailed }, ...(model === undefined ? {} : { model }) };
    return this.call("POST", "/api/predict/batch", { body, ...asking(options) });
  }

  /** What an image shows: an encoded file (PNG, JPEG …), or where the server shall fetch it, if it does that. */
  classify(image: Uint8Array | URL, { topK = 5, ...options }: ClassifyOptions = {}): Promise<Schemas["ImageAnswer"]> {
    const what = image instanceof URL ? { image_url: image.href } : { image: base64(image) };
    return this.call("POST", "/api/predict/image", { body: { ...what, top_k: topK }, ...asking(options) });
  }

  /** What a user may like (`user_id`), or what is like an item (`item_id`). */
  recommend(asked: Schemas["RecommendAsked"], options: PredictOptions = {}): Promise<Schemas["RecommendAnswer"]> {
    return this.call("POST", "/api/predict/recommend", { body: asked, ...asking(options) });
  }

  /** Which models there are, and which routes they answer. */
  async models(options: CallOptions = {}): Promise<Schemas["ShownModel"][]> {
    return held(await this.call("GET", "/api/models", options), "models");
  }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}
