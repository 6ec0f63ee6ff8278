/** A real server, on a free port of this machine, for the length of a test file. */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** The repository's own Python, from `dist-test/`. `EVERLOOP_PYTHON` names another one that has everloop. */
export const PYTHON =
  process.env.EVERLOOP_PYTHON ?? fileURLToPath(new URL("../../../.venv/bin/python", import.meta.url));
export const MISSING = existsSync(PYTHON) ? false : `NOTHING WAS TESTED AGAINST A SERVER: there is no ${PYTHON}`;
if (MISSING && process.env.CI === "true") {
  throw new Error(MISSING);
}

export class Server {
  private constructor(
    readonly url: string,
    private readonly process: ChildProcess,
  ) {}

  /** Resolves when it is ready, which its log says together with where it is. */
  static async start(...options: string[]): Promise<Server> {
    const code = "from everloop.app.cli import main; main()";
    const command = ["-P", "-c", code, "serve", "--memory", "--port", "0", "--json-logs", ...options];
    const child = spawn(PYTHON, command, {
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, NO_COLOR: "1" },
    });
    const lines: string[] = [];
    for await (const line of createInterface({ input: child.stderr })) {
      lines.push(line);
      const url = /http:\/\/127\.0\.0\.1:\d+/.exec(line)?.[0];
      if (url !== undefined) {
        child.stderr.resume();
        await ready(url);
        return new Server(url, child);
      }
    }
    throw new Error(`the server did not start:\n${lines.join("\n")}`);
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.process.kill("SIGTERM");
    await ended;
  }
}

async function ready(url: string): Promise<void> {
  for (let attempt = 0; attempt < 600; attempt++) {
    const answer = await fetch(`${url}/v2/health/ready`).catch(() => undefined);
    if (answer?.ok) {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${url} was not ready in time`);
}
