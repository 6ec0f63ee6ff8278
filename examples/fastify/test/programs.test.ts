/** The programs as people run them: the server with what they type into a terminal, its end, and the samples. */

import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface, type Interface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { PolyglotBridge } from "../src/polyglot/bridge";

const at = (program: string) => fileURLToPath(new URL(`${program}.js`, import.meta.url));
let server: ChildProcess;
let log: Interface;
let url = "";

/** The next line of the server's log that holds `words`. */
async function logged(words: string): Promise<string> {
  for (;;) {
    const [line] = (await once(log, "line")) as [string];
    if (line.includes(words)) {
      return line;
    }
  }
}

before(async () => {
  const env = { ...process.env, PORT: "0", LOG_LEVEL: "info", DRAIN_MS: "0" };
  server = spawn(process.execPath, [at("server")], { env, stdio: ["ignore", "pipe", "inherit"] });
  assert.ok(server.stdout);
  log = createInterface({ input: server.stdout });
  url = /http:\/\/127\.0\.0\.1:\d+/.exec(await logged("listening"))?.[0] ?? "";
  await logged("in-process"); // Its models are ready.
});
after(() => server.kill("SIGKILL"));

const TYPED: [command: string, status: number, answers: RegExp][] = [
  ["curl http://localhost:3000/health", 200, /"status":"healthy"/],
  [
    `curl -X POST http://localhost:3000/api/predict/sentiment \\
  -H "Content-Type: application/json" \\
  -d '{"text": "This is amazing! Elide makes polyglot programming so easy!"}'`,
    200,
    /"sentiment":"positive","confidence":0\.9/,
  ],
  [
    `curl -X POST http://localhost:3000/api/predict/image \\
  -H "Content-Type: application/json" \\
  -d '{"image_url": "https://example.com/cat.jpg"}'`,
    422, // Nothing is fetched from URLs unless IMAGE_URLS=1 says so.
    /image_url: this server fetches nothing/,
  ],
  [
    `curl -X POST http://localhost:3000/api/predict/batch \\
  -H "Content-Type: application/json" \\
  -d '{"texts": ["Great product!", "Terrible service", "Okay experience"]}'`,
    200,
    /"results":\[\{"sentiment":"positive".*"count":3/,
  ],
  ["curl http://localhost:3000/metrics", 200, /"models":\{"sentiment":\{"calls":\d/],
];

for (const [command, status, answers] of TYPED) {
  test(command.replace(/\s+/g, " "), async () => {
    const path = /localhost:3000(\S+)/.exec(command)?.[1];
    const body = /-d '(.*)'/.exec(command)?.[1];
    const headers = { "content-type": "application/json" };
    const answer = await fetch(`${url}${path}`, body === undefined ? {} : { method: "POST", body, headers });
    assert.equal(answer.status, status);
    assert.match(await answer.text(), answers);
  });
}

test("SIGTERM: what is under way is answered, and the exit code is 0", async () => {
  const headers = { "content-type": "application/json", expect: "100-continue" };
  const asked = request(`${url}/api/predict/batch`, { method: "POST", headers });
  asked.flushHeaders();
  await once(asked, "continue"); // The server has the request, though not all of it.
  const told = logged("SIGTERM");
  server.kill("SIGTERM");
  await told;
  asked.end(JSON.stringify({ texts: Array.from({ length: 100 }, (_, i) => `I rather like number ${i}.`) }));
  const [answer] = await once(asked, "response");
  assert.equal(answer.statusCode, 200);
  assert.equal(JSON.parse((await answer.toArray()).join("")).count, 100);
  const [code] = server.exitCode === null ? await once(server, "exit") : [server.exitCode];
  assert.equal(code, 0);
});

/** How the server ends that cannot start. */
async function refused(environment: Record<string, string>): Promise<{ code: number; stderr: string }> {
  const env = { ...process.env, PORT: "0", ...environment };
  return promisify(execFile)(process.execPath, [at("server")], { env }).then(
    () => assert.fail("it started"),
    (error) => error,
  );
}

test("what the environment gets wrong is told in a sentence", async () => {
  const port = await refused({ PORT: "abc" });
  assert.deepEqual([port.code, port.stderr], [1, 'PORT is a whole number of at least 0, not "abc"\n']);
  const python = await refused({ PYTHON: "/no/such/python" });
  assert.match(python.stderr, /^no Python could be run as [^\n]*make venv[^\n]*requirements\.txt[^\n]*\n$/);
});

test("a Python without everloop is told at once, with what to do", async (t) => {
  const bridge = new PolyglotBridge({ transport: "process" });
  const [from] = (await bridge.callPython("site", "getsitepackages")) as [string];
  const { executable } = bridge.getInfo().python;
  await bridge.close();
  const environment = mkdtempSync(path.join(tmpdir(), "everloop-test-"));
  t.after(() => rmSync(environment, { recursive: true, force: true }));
  await promisify(execFile)(executable, ["-m", "venv", "--without-pip", environment]);
  const [lib = ""] = readdirSync(path.join(environment, "lib"));
  symlinkSync(path.join(from, "msgspec"), path.join(environment, "lib", lib, "site-packages", "msgspec"));
  const { code, stderr } = await refused({ PYTHON: environment });
  assert.equal(code, 1);
  assert.match(stderr, /^this Python has no everloop; prepare one: `make venv`[^\n]*\n$/m);
});

const run = async (program: string) => (await promisify(execFile)(process.execPath, [at(program)])).stdout;

test("a basic prediction", async () => {
  assert.match(await run("basic-prediction"), /sentiment: 'positive'/);
});

test("texts in parallel, and in one batch", async () => {
  const { results, together } = JSON.parse(await run("batch-processing"));
  const sentiments = (answers: { sentiment: string }[]) => answers.map(({ sentiment }) => sentiment);
  assert.deepEqual(sentiments(results).slice(0, 2), ["positive", "negative"]);
  assert.deepEqual(sentiments(together.results), sentiments(results));
});

test("a model of one's own", async () => {
  assert.deepEqual(JSON.parse(await run("custom-model")), ["setosa", "virginica"]);
});
