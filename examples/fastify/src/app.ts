/** The Fastify application: who may ask, how often, and what happens where something fails. It asks `models`, wherever they run. */

import { createHash, timingSafeEqual } from "node:crypto";
import rateLimit from "@fastify/rate-limit";
import fastify, { type FastifyInstance, type FastifyRequest, LogController } from "fastify";
import { Ending } from "./ending";
import type { Models } from "./models";
import { tellProblems, Unauthenticated } from "./problems";
import { Requests } from "./requests";
import { monitoring, predictions } from "./routes";
import type { Settings } from "./settings";

const LARGEST_BODY = 10 << 20;

export async function application(
  models: Models,
  settings: Settings,
  ending: Ending = new Ending(),
): Promise<FastifyInstance> {
  const app = fastify({
    bodyLimit: LARGEST_BODY,
    forceCloseConnections: "idle",
    logger: { level: settings.logLevel },
    logController: new LogController({ disableRequestLogging: settings.logLevel !== "debug" }),
    // A number is no text: nothing is coerced, and nothing unknown is silently left out.
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, allowUnionTypes: true } },
  });
  const requests = new Requests();
  requests.watch(app);
  ending.watch(app);
  tellProblems(app);
  monitoring(app, models, requests, ending);
  await app.register(async (api) => {
    if (settings.rateLimit > 0) {
      await api.register(rateLimit, { max: settings.rateLimit, timeWindow: "1 minute" });
    }
    if (settings.apiKey !== undefined) {
      api.addHook("onRequest", mustBring(settings.apiKey));
    }
    predictions(api, models);
  });
  return app;
}

function mustBring(key: string): (request: FastifyRequest) => Promise<void> {
  const wanted = digest(key);
  return async ({ headers }) => {
    const header = headers["x-api-key"] ?? headers.authorization?.replace(/^Bearer /i, "");
    const given = Array.isArray(header) ? header[0] : header;
    if (given === undefined || !timingSafeEqual(digest(given), wanted)) {
      throw new Unauthenticated("bring the key of this server: Authorization: Bearer KEY");
    }
  };
}

/** Of equal length whatever the key, and compared in equal time. */
function digest(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}
