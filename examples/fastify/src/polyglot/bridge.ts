/** everloop's bridge, knowing where this folder's models are and which of their functions take microseconds. */

import { existsSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { PolyglotBridge as Bridge, type BridgeOptions } from "everloop/bridge";

export * from "everloop/bridge";

/** From `dist/`, where this file is part of every program. */
const ROOT = fileURLToPath(new URL("..", import.meta.url));
export const MODELS = path.join(ROOT, "src", "polyglot");

export class PolyglotBridge extends Bridge {
  constructor(options: BridgeOptions = {}) {
    const fast = ["sentiment_model.analyze", "recommender.recommend"];
    super({ modulePath: MODELS, fast, ...python(), ...options });
  }
}

/** PYTHON names an interpreter; without it an active environment's, or that of the repository which this example is part of. */
export function python(): Pick<BridgeOptions, "pythonPath"> {
  const ofRepository = path.join(ROOT, "..", "..", ".venv");
  const own = process.env.PYTHON ?? process.env.VIRTUAL_ENV ?? (existsSync(ofRepository) ? ofRepository : undefined);
  return own === undefined ? {} : { pythonPath: own };
}
