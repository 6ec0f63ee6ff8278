/** `npm start`: the API at http://localhost:3000, its Python models in this process. SIGTERM and Ctrl-C end it in good order. */

import { setTimeout as after } from "node:timers/promises";
import { application } from "./app";
import { Ending } from "./ending";
import { Models } from "./models";
import { PolyglotBridge, PythonError } from "./polyglot/bridge";
import { settingsFrom } from "./settings";

const PREPARE =
  "prepare one: `make venv` at the top of the repository, or `pip install -r requirements.txt` here, in an environment that is " +
  "active or that PYTHON names";

async function start(): Promise<void> {
  const settings = settingsFrom(process.env);
  const { poolSize, timeout, maxPending } = settings;
  const bridge = new PolyglotBridge({ poolSize, timeout, maxPending });
  await bridge.warmup(["everloop"], { timeout: 0 });
  const models = new Models((module, fn, args) => bridge.callPython(module, fn, args));
  const ending = new Ending();
  const app = await application(models, settings, ending);

  async function end(signal: string): Promise<void> {
    ending.begun = true;
    app.log.info(`${signal}: every answer is the last of its connection from now on`);
    await after(settings.drain);
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
}

/** What whoever starts the server can mend, in a sentence; undefined for what is ours. */
function told(error: unknown): string | undefined {
  if (error instanceof PythonError && error.type === "ModuleNotFoundError" && /'everloop/.test(error.message)) {
    return `this Python has no everloop; ${PREPARE}`;
  }
  if (error instanceof Error && error.name === "BridgeStartError") {
    return `${error.message}; for this server ${PREPARE}`;
  }
  if (error instanceof RangeError || (error instanceof Error && "syscall" in error)) {
    return error.message;
  }
  return undefined;
}

try {
  await start();
} catch (error) {
  const why = told(error);
  if (why === undefined) {
    throw error;
  }
  process.stderr.write(`${why}\n`);
  process.exit(1);
}
