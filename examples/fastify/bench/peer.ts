/** The same Fastify application, its models behind HTTP: `node dist/peer.js URL_OF_THE_MODELS`. */

import { Pool } from "undici";
import { application } from "../src/app";
import { Models } from "../src/models";
import { settingsFrom } from "../src/settings";

const settings = settingsFrom(process.env);
const pool = new Pool(process.argv[2] ?? "", { connections: 64, pipelining: 1, keepAliveTimeout: 60_000 });
const headers = { "content-type": "application/json" };

const models = new Models(async (module, fn, args) => {
  const path = `/${module}/${fn}`;
  const { statusCode, body } = await pool.request({ path, method: "POST", headers, body: JSON.stringify(args) });
  if (statusCode !== 200) {
    throw new Error(`${path} answered ${statusCode}: ${await body.text()}`);
  }
  return body.json();
});

const app = await application(models, settings);
process.once("SIGTERM", () => void app.close().then(() => pool.close()));
await models.warmUp((model, error) => app.log.error(error, `${model} could not be loaded`));
await app.listen({ host: settings.host, port: settings.port });
