/** Bridges for tests: closed when the test is over, with this repository's interpreter where there is one. */

import { existsSync } from "node:fs";
import path from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { type BridgeOptions, PolyglotBridge, type Transport } from "everloop/bridge";

export const TRANSPORTS: Transport[] = ["in-process", "process"];
export const MODULES = fileURLToPath(new URL("../../test/bridge/modules", import.meta.url));

const repository = fileURLToPath(new URL("../../../../.venv", import.meta.url));
const python = process.env.EVERLOOP_TEST_PYTHON ?? (existsSync(repository) ? repository : undefined);

export const OPTIONS: BridgeOptions = { modulePath: MODULES, ...(python === undefined ? {} : { pythonPath: python }) };

export function opened(t: TestContext, options: BridgeOptions = {}): PolyglotBridge {
  const bridge = new PolyglotBridge({ ...OPTIONS, ...options });
  t.after(() => bridge.close({ timeout: 200 }));
  return bridge;
}

/** The text of a program for a Node of its own, which begins with a bridge. */
export function program(body: string, options: BridgeOptions = {}): string {
  const index = new URL("../../dist/bridge/index.js", import.meta.url).href;
  return `
import { PolyglotBridge } from ${JSON.stringify(index)};
const bridge = new PolyglotBridge(${JSON.stringify({ ...OPTIONS, ...options })});
${body}`;
}

export const here = (name: string): string => path.join(MODULES, name);
