/** The API: four predictions, and how the server is. */

import type { FastifyInstance } from "fastify";
import type { Ending } from "./ending";
import { takeForms } from "./forms";
import type { ModelName, Models } from "./models";
import type { Requests } from "./requests";

const MOST_TEXT = 10_000;
const MOST_TEXTS = 100;
const MOST = 1000;

const TEXT = { type: "string", minLength: 1, maxLength: MOST_TEXT };
const ID = { type: ["string", "integer"], minLength: 1, maxLength: 256 };
const IDS = { type: "array", items: ID, maxItems: MOST };
const OPTIONS = { type: "object", properties: { detailed: { type: "boolean" } }, additionalProperties: false };

/** An object with these members and no others. */
function body(properties: Record<string, object>, ...required: string[]): { schema: { body: object } } {
  return { schema: { body: { type: "object", properties, required, additionalProperties: false } } };
}

const SENTIMENT = body({ text: TEXT, options: OPTIONS }, "text");
const IMAGE = body({
  image: { type: "string", minLength: 1 },
  image_url: { type: "string", minLength: 1, maxLength: 2048 },
  top_k: { type: "integer", minimum: 1, maximum: MOST },
});
const RECOMMEND = body({
  user_id: ID,
  item_id: ID,
  context: { type: "object", maxProperties: 20 },
  limit: { type: "integer", minimum: 1, maximum: MOST },
  exclude: IDS,
  history: IDS,
  seen: { type: "boolean" },
});
const BATCH = body(
  {
    texts: { type: "array", items: TEXT, minItems: 1, maxItems: MOST_TEXTS },
    model: { type: "string", enum: ["sentiment"] },
    options: OPTIONS,
  },
  "texts",
);

const ROUTES: Record<ModelName, string[]> = {
  sentiment: ["/api/predict/sentiment", "/api/predict/batch"],
  image: ["/api/predict/image"],
  recommender: ["/api/predict/recommend"],
};

export interface Sentiment {
  sentiment: string;
  confidence: number;
  score: number;
  model: string;
  scores?: Record<string, number>;
  words?: { word: string; weight: number }[];
}

export interface Classes {
  predictions: { label: string; confidence: number }[];
  model: string;
}

export interface Recommendations {
  recommendations: { item_id: string; score: number; reason: string }[];
  model: string;
}

export interface Sentiments {
  results: Omit<Sentiment, "model">[];
  count: number;
  model: string;
}

/** What may be asked without being asked who one is: nothing here costs a model's time. */
export function monitoring(app: FastifyInstance, models: Models, requests: Requests, ending: Ending): void {
  app.get("/health", (_request, reply) => {
    const state = models.state;
    const ready = !ending.begun && Object.values(state).every((each) => each === "ready");
    const failed = Object.values(state).includes("failed");
    const { heapUsed, heapTotal, rss } = process.memoryUsage();
    return reply.code(ready ? 200 : 503).send({
      status: ready ? "healthy" : ending.begun ? "draining" : failed ? "unhealthy" : "starting",
      uptime: Math.round(process.uptime() * 1000),
      models: state,
      memory: { heapUsed: megabytes(heapUsed), heapTotal: megabytes(heapTotal), resident: megabytes(rss) },
    });
  });

  app.get("/metrics", () => {
    const ofModels: Record<string, object> = {};
    for (const [name, { calls, milliseconds: spent }] of Object.entries(models.counted)) {
      ofModels[name] = { calls, avgLatency: `${(calls === 0 ? 0 : spent / calls).toFixed(1)}ms` };
    }
    return { ...requests.told(), models: ofModels };
  });
}

export function predictions(app: FastifyInstance, models: Models): void {
  takeForms(app);

  app.post<{ Body: { text: string; options?: object } }>("/api/predict/sentiment", SENTIMENT, (request) =>
    models.ask<Sentiment>("sentiment", "analyze", request.body),
  );

  app.post<{ Body: { image?: string; image_url?: string; top_k?: number } }>("/api/predict/image", IMAGE, (request) =>
    models.ask<Classes>("image", "classify", request.body),
  );

  app.post<{ Body: Record<string, unknown> }>("/api/predict/recommend", RECOMMEND, (request) =>
    models.ask<Recommendations>("recommender", "recommend", request.body),
  );

  app.post<{ Body: { texts: string[]; options?: object } }>(
    "/api/predict/batch",
    BATCH,
    ({ body: { texts, options } }) => models.ask<Sentiments>("sentiment", "analyze_batch", { texts, options }),
  );

  app.get("/api/models", () => ({
    models: Object.entries(models.state).map(([name, status]) => ({ name, status, routes: ROUTES[name as ModelName] })),
  }));
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MB`;
}
