/** Repeats, time limits and errors, against a server that misbehaves as told. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { type TestContext, test } from "node:test";
import { EverloopClient, EverloopError } from "everloop";
import { MockAgent } from "undici";
import { NOT_JSON } from "../../dist/client/calls.js";
import { systemClock } from "../../dist/client/retries.js";
import { ManualClock } from "./clock.js";
import { broken, json, problem, type Scene, scripted, silence } from "./scripted.js";

interface Operation {
  responses?: Record<string, { content?: Record<string, unknown> }>;
}

const PREDICTION = { prediction: 1, model_version: 1, request_id: "r-1" };

async function told(
  t: TestContext,
  scenes: Scene[],
  options: { retries?: number; timeout?: number } = {},
  fast = 20_000,
) {
  const clock = new ManualClock(fast);
  const { url, asked } = await scripted(t, ...scenes);
  const client = new EverloopClient({ url, clock, ...options });
  t.after(() => client.close());
  return { client, clock, asked };
}

test("a refusal is an error with all that the server said", async (t) => {
  const { client } = await told(t, [problem(422, "invalid_input", { "x-request-id": "abc" })]);
  await assert.rejects(client.predict("m", [1]), (error) => {
    assert(error instanceof EverloopError);
    const { name, message, code, status, field, requestId } = error;
    assert.deepEqual(
      { name, message, code, status, field, requestId },
      {
        name: "EverloopError",
        message: "it was invalid_input",
        code: "invalid_input",
        status: 422,
        field: "here",
        requestId: "abc",
      },
    );
    return true;
  });
});

test("a prediction is asked again with growing random waits", async (t) => {
  const busy = problem(503, "overloaded");
  const { client, clock, asked } = await told(t, [busy, broken, problem(502, "bad"), json(PREDICTION)]);
  assert.equal((await client.predict("m", [1])).prediction, 1);
  assert.equal(asked.length, 4);
  assert.deepEqual(clock.waits, [50, 100, 200]); // half of 100, 200, 400
});

test("no more often than said, and then with the last error", async (t) => {
  const { client, asked } = await told(t, [problem(503, "overloaded")], { retries: 2 });
  await assert.rejects(client.predict("m", [1]), { code: "overloaded" });
  assert.equal(asked.length, 3);
  await assert.rejects(client.predict("m", [1], { retries: 5 }), { code: "overloaded" });
  assert.equal(asked.length, 9);
  const scored = client.score("m", [[1]], { retries: 7 });
  await assert.rejects(scored.next(), { code: "overloaded" });
  assert.equal(asked.length, 17);
});

test("Retry-After is kept, and a wait that would be too long is not begun", async (t) => {
  const scenes = [problem(429, "quota_exceeded", { "retry-after": "2" }), json(PREDICTION)];
  const { client, clock } = await told(t, scenes);
  await client.predict("m", [1]);
  assert.deepEqual(clock.waits, [2050]);
  const other = await told(t, [problem(429, "quota_exceeded", { "retry-after": "60" })]);
  await assert.rejects(other.client.predict("m", [1]), { code: "quota_exceeded", retryAfter: 60 });
  assert.equal(other.asked.length, 1);
});

test("a wait of months is one of months, and a time that never ends none", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  let over = 0;
  const months = 3_000_000_000;
  systemClock.after(months, () => over++);
  systemClock.after(Infinity, () => over++);
  t.mock.timers.tick(2 ** 31 - 1);
  t.mock.timers.tick(months - 2 ** 31);
  assert.equal(over, 0);
  t.mock.timers.tick(1);
  assert.equal(over, 1);
  const client = new EverloopClient({ timeout: Infinity });
  await assert.rejects(client.models({ timeout: Number.NaN }), RangeError);
});

test("what may have been done is not done again", async (t) => {
  const { client, asked } = await told(t, [broken]);
  await assert.rejects(client.model("m").rollback(), { code: "unreachable" });
  assert.equal(asked.length, 1);
  const proxy = await told(t, [problem(502, "bad_gateway")]);
  await assert.rejects(proxy.client.model("m").promote(2), { status: 502 });
  await assert.rejects(proxy.client.model("m").delete(), { status: 502 }); // somebody may have made it anew in between
  await assert.rejects(
    proxy.client.call("PATCH", "/v1/models/{model}", { path: { model: "m" }, body: { serving: {} } }),
    {
      status: 502,
    },
  );
  assert.equal(proxy.asked.length, 3);
});

test("what was certainly not taken is sent again, whatever it is", async (t) => {
  const { client, asked } = await told(t, [problem(503, "starting"), json({ model: "m", version: 1 })]);
  await client.model("m").promote(2);
  assert.equal(asked.length, 2);
});

test("feedback goes again under the key of its first time", async (t) => {
  const { client, asked } = await told(t, [broken, json({ accepted: 1, duplicate: true, rejected: [] }, 202)]);
  await client.feedback("m", { features: [1], label: 2 });
  assert.equal(asked.length, 2);
  assert.match(String(asked[0]?.headers["idempotency-key"]), /^[0-9a-f-]{36}$/);
  assert.equal(asked[0]?.headers["idempotency-key"], asked[1]?.headers["idempotency-key"]);
  assert.equal(asked[0]?.body, asked[1]?.body);
});

test("a deadline that has passed is not tried again", async (t) => {
  const { client, asked } = await told(t, [problem(504, "deadline_exceeded")], {}, 0);
  await assert.rejects(client.predict("m", [1], { deadline: 250 }), { code: "deadline_exceeded" });
  assert.equal(asked.length, 1);
  assert.equal(asked[0]?.headers["everloop-timeout"], "0.25");
});

test("a call ends when its time is up", async (t) => {
  const clock = new ManualClock();
  let arrived = () => {};
  const asked = new Promise<void>((resolve) => {
    arrived = resolve;
  });
  const { url } = await scripted(t, () => arrived());
  const client = new EverloopClient({ url, clock, timeout: 1000 });
  t.after(() => client.close());
  const call = assert.rejects(client.models(), { code: "timeout", message: "no answer within 1000 ms" });
  await asked;
  clock.advance(1000);
  await call;
});

test("a call ends when its caller says so, with the caller's reason", async (t) => {
  const { client } = await told(t, [silence], { timeout: 0 });
  const reason = new Error("changed my mind");
  const abort = new AbortController();
  const call = assert.rejects(client.models({ signal: abort.signal }), reason);
  setImmediate(() => abort.abort(reason));
  await call;
  await assert.rejects(client.models({ signal: abort.signal }), reason);
});

test("a server that is not there is told in words", async () => {
  const free = createServer();
  await new Promise<void>((resolve) => free.listen(0, "127.0.0.1", resolve));
  const { port } = free.address() as { port: number };
  await new Promise((resolve) => free.close(resolve));
  const client = new EverloopClient({ url: `http://127.0.0.1:${port}`, retries: 1, backoff: { base: 1 } });
  const message = `cannot reach the server at http://127.0.0.1:${port}/: nothing listens there; start one with \`everloop serve\``;
  await assert.rejects(client.models(), { code: "unreachable", message });
});

test("a page that is no problem document is told as such", async (t) => {
  const page: Scene = (response) => response.writeHead(404, { "content-type": "text/html" }).end("<h1>nginx</h1>");
  const { client } = await told(t, [page]);
  await assert.rejects(client.models(), {
    code: "not_everloop",
    status: 404,
    message: /<h1>nginx<\/h1>.*everloop server/,
  });
});

test("an answer that is no JSON though it says so is told as such", async (t) => {
  const cut: Scene = (response) => response.writeHead(200, { "content-type": "application/json" }).end('{"models": [');
  const { client } = await told(t, [cut]);
  await assert.rejects(client.models(), { code: "not_everloop", message: /\{"models": \[/ });
});

test("an answer that no everloop server gives is no success", async (t) => {
  const page: Scene = (response) => response.writeHead(200, { "content-type": "text/html" }).end("<h1>Log in</h1>");
  const empty: Scene = (response) => response.writeHead(200).end();
  const scenes = [page, empty, json([]), json({}), json({ predictions: [1], model_version: 1, request_id: "r" })];
  const { client } = await told(t, [...scenes, page, json({})]);
  for (const message of [
    /text\/html came: <h1>Log in/,
    /nothing came/,
    /no object/,
    /no predictions/,
    /1 predictions for 2/,
  ]) {
    await assert.rejects(client.predictBatch("m", [[1], [2]]), { code: "not_everloop", message });
  }
  await assert.rejects(client.predict("m", [1]), { code: "not_everloop" });
  await assert.rejects(client.models(), { code: "not_everloop", message: /no models/ });
});

test("which operations answer with something else than JSON is what the server's document says", () => {
  const file = new URL("../../openapi.json", import.meta.url);
  const document = JSON.parse(readFileSync(file, "utf8")) as Record<string, Record<string, Record<string, Operation>>>;
  const other: Record<string, string> = {};
  for (const [path, operations] of Object.entries(document.paths ?? {})) {
    for (const { responses = {} } of Object.values(operations)) {
      for (const [status, { content = {} }] of Object.entries(responses)) {
        const types = Object.keys(content).filter((type) => type !== "application/json");
        if (status.startsWith("2") && types[0] !== undefined) {
          other[path] = types[0];
        }
      }
    }
  }
  assert.deepEqual(NOT_JSON, other);
});

test("a redirect is not followed: the key would go along", async (t) => {
  const away: Scene = (response) => response.writeHead(302, { location: "http://127.0.0.1:1/" }).end();
  const { client, asked } = await told(t, [away]);
  await assert.rejects(client.models(), { status: 302 });
  assert.equal(asked.length, 1);
});

test("a closed client says so", async (t) => {
  const { client } = await told(t, [json({ models: [] })]);
  await client.close();
  await assert.rejects(client.models(), { code: "closed" });
});

test("names are escaped, a path in the URL goes first, and the key goes along", async (t) => {
  const { url, asked } = await scripted(t, json({ model: "a/b", events: [] }));
  const client = new EverloopClient({ url: `${url}/below/`, apiKey: "secret" });
  t.after(() => client.close());
  await client.model("a/b?c").timeline({ limit: 5, latest: true });
  assert.equal(asked[0]?.url, "/below/v1/models/a%2Fb%3Fc/timeline?limit=5&latest=true");
  assert.equal(asked[0]?.headers.authorization, "Bearer secret");
});

test("a program's own dispatcher takes the requests, and stays open", async () => {
  const agent = new MockAgent();
  agent.disableNetConnect();
  const answers = agent.get("http://models.internal");
  answers.intercept({ path: "/v1/models/m/predict", method: "POST" }).reply(200, PREDICTION, {
    headers: { "content-type": "application/json" },
  });
  const client = new EverloopClient({ url: "http://models.internal", dispatcher: agent });
  assert.equal((await client.predict("m", [1])).request_id, "r-1");
  await client.close();
  await agent.close(); // it would reject had the client closed it
});

test("options that cannot be are refused where they are given", () => {
  assert.throws(() => new EverloopClient({ url: "localhost:3000" }), TypeError);
  assert.throws(() => new EverloopClient({ url: "http://me:pw@localhost" }), TypeError);
  assert.throws(() => new EverloopClient({ apiKey: "two\nlines" }), TypeError);
  assert.throws(() => new EverloopClient({ timeout: -1 }), RangeError);
  assert.throws(() => new EverloopClient({ retries: Number.NaN }), RangeError);
});
