/** `npm start`: the API at http://localhost:3000, its Python models in this process. SIGTERM and Ctrl-C end it in good order. */

import { application } from "./app";
import { Models } from "./models";
import { PolyglotBridge } from "./polyglot/bridge";
import { settingsFrom } from "./settings";

const settings = settingsFrom(process.env);
const { poolSize, timeout, maxPending } = settings;
const bridge = new PolyglotBridge({ poolSize, timeout, maxPending });
const models = new Models((module, fn, args) => bridge.callPython(module, fn, args));
const app = await application(models, settings);

async function end(signal: string): Promise<void> {
  app.log.info(`${signal}: requests under way are answered, new ones are not taken`);
  // Connections that answer a last request are let go with it; whoever still asks after the grace has waited long enough.
  setInterval(() => app.server.closeIdleConnections(), 50).unref();
  setTimeout(() => app.server.closeAllConnections(), settings.grace).unref();
  await app.close();
  await bridge.close();
}

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => void end(signal));
}

await app.listen({ host: settings.host, port: settings.port });
await models.warmUp((model, error) => app.log.error(error, `${model} could not be loaded`));
app.log.info(`Python ${bridge.getInfo().python.version}, ${bridge.getInfo().transport}`);
