/** The routes, asked inside this process: what they answer, and what they refuse. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { Agent, type IncomingMessage, request } from "node:http";
import { after, before, test } from "node:test";
import { deflateSync } from "node:zlib";
import type { FastifyInstance } from "fastify";
import { application } from "../src/app";
import { Ending } from "../src/ending";
import { Models } from "../src/models";
import { PolyglotBridge } from "../src/polyglot/bridge";
import { settingsFrom } from "../src/settings";

const QUIET = settingsFrom({ LOG_LEVEL: "silent" });
let bridge: PolyglotBridge;
let models: Models;
let app: FastifyInstance;

before(async () => {
  bridge = new PolyglotBridge({ poolSize: 2 });
  models = new Models((module, fn, args) => bridge.callPython(module, fn, args));
  app = await application(models, QUIET);
  await models.warmUp((model, error) => assert.fail(`${model}: ${error}`));
});
after(async () => {
  await app.close();
  await bridge.close();
});

async function post(url: string, payload: object, headers: Record<string, string> = {}, to = app) {
  const answer = await to.inject({ method: "POST", url, payload, headers });
  return { status: answer.statusCode, type: answer.headers["content-type"], body: answer.json(), answer };
}

test("sentiment", async () => {
  const { status, body } = await post("/api/predict/sentiment", { text: "This is amazing!" });
  assert.equal(status, 200);
  assert.equal(body.sentiment, "positive");
  assert.equal(body.model, "sentiment-v1");
  assert.ok(body.confidence > 0.9 && body.score > 0.8 && body.latency_ms > 0);
  const detailed = await post("/api/predict/sentiment", { text: "I hate this", options: { detailed: true } });
  assert.equal(detailed.body.sentiment, "negative");
  assert.deepEqual(Object.keys(detailed.body.scores).sort(), ["negative", "neutral", "positive"]);
  assert.ok(detailed.body.words.some(({ word }: { word: string }) => word.includes("hate")));
});

test("a batch answers in the order of its texts", async () => {
  const texts = Array.from({ length: 100 }, (_, i) => (i % 2 ? "I hate this" : "This is amazing!"));
  const { status, body } = await post("/api/predict/batch", { texts, model: "sentiment" });
  assert.equal(status, 200);
  assert.equal(body.count, 100);
  for (const [i, { sentiment }] of body.results.entries()) {
    assert.equal(sentiment, i % 2 ? "negative" : "positive");
  }
});

test("an image of a digit, in base64", async () => {
  const image = png(8, (x, y) => ((x === 3 || x === 4) && y > 0 && y < 7 ? 255 : 0)).toString("base64");
  const { status, body } = await post("/api/predict/image", { image, top_k: 3 });
  assert.equal(status, 200);
  assert.equal(body.predictions.length, 3);
  assert.ok(body.predictions[0].confidence >= body.predictions[1].confidence);
  assert.match(body.predictions[0].label, /^\d$/);
});

test("an image in a form, as curl -F sends it", async () => {
  const form = new FormData();
  form.set("image", new Blob([png(8, (x) => (x === 4 ? 255 : 0))]), "digit.png");
  form.set("top_k", "2");
  const sent = new Request("http://localhost/", { method: "POST", body: form });
  const headers = { "content-type": sent.headers.get("content-type") ?? "" };
  const payload = Buffer.from(await sent.arrayBuffer());
  const ask = (payload: Buffer) => app.inject({ method: "POST", url: "/api/predict/image", headers, payload });
  assert.equal((await ask(payload)).json().predictions.length, 2);
  assert.equal((await ask(payload.subarray(0, 100))).statusCode, 400);
});

test("what the typed client sends is taken", async () => {
  const batch = await post("/api/predict/batch", { texts: ["I hate this"], options: { detailed: true } });
  assert.ok(batch.body.results[0].words.length > 0);
  const numbered = await post("/api/predict/recommend", { user_id: 5, history: ["item456", 7], seen: true, limit: 2 });
  assert.equal(numbered.body.recommendations.length, 2);
  const [first, second] = numbered.body.recommendations.map(({ item_id }: { item_id: string }) => item_id);
  const like = await post("/api/predict/recommend", { item_id: first, limit: 3, exclude: [second] });
  assert.equal(like.body.recommendations.length, 3);
  assert.ok(like.body.recommendations.every(({ item_id }: { item_id: string }) => item_id !== second));
  const { models: shown } = (await app.inject("/api/models")).json();
  assert.deepEqual(shown[0], {
    name: "sentiment",
    status: "ready",
    routes: ["/api/predict/sentiment", "/api/predict/batch"],
  });
});

test("what a model refuses names its field", async () => {
  const { body } = await post("/api/predict/recommend", { user_id: "u", context: { category: "nope" } });
  assert.equal(body.field, "context.category");
});

test("another method is 405", async () => {
  const answer = await app.inject("/api/predict/sentiment?x=1");
  assert.deepEqual([answer.statusCode, answer.headers.allow], [405, "POST"]);
});

test("once the end has begun, health fails and every answer is the last of its connection", async () => {
  const ending = new Ending();
  const some = await application(models, QUIET, ending);
  const url = await some.listen({ port: 0, host: "127.0.0.1" });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const ask = async (path: string, body?: object) => {
    const headers = { "content-type": "application/json" };
    const sent = request(url + path, { agent, headers, method: body === undefined ? "GET" : "POST" });
    sent.end(body === undefined ? undefined : JSON.stringify(body));
    const [answer] = (await once(sent, "response")) as [IncomingMessage];
    const told = JSON.parse(Buffer.concat(await answer.toArray()).toString());
    return { status: answer.statusCode, connection: answer.headers.connection, told };
  };
  assert.equal((await ask("/api/predict/sentiment", { text: "Great!" })).connection, "keep-alive");
  ending.begun = true;
  const last = await ask("/api/predict/sentiment", { text: "Great!" });
  assert.deepEqual([last.status, last.connection], [200, "close"]);
  const health = await ask("/health");
  assert.deepEqual([health.status, health.connection, health.told.status], [503, "close", "draining"]);
  agent.destroy();
  await some.close();
});

test("recommendations", async () => {
  const asked = { user_id: "user123", context: { category: "tech" }, limit: 3 };
  const { status, body } = await post("/api/predict/recommend", asked);
  assert.equal(status, 200);
  assert.equal(body.recommendations.length, 3);
  const best = body.recommendations[0].item_id;
  const others = await post("/api/predict/recommend", { ...asked, exclude: [best] });
  assert.ok(others.body.recommendations.every(({ item_id }: { item_id: string }) => item_id !== best));
});

const REFUSED: [what: string, path: string, body: object, status: number, tells: RegExp][] = [
  ["no text", "sentiment", {}, 422, /text is missing/],
  ["a number for a text", "sentiment", { text: 5 }, 422, /text must be string/],
  ["an empty text", "sentiment", { text: "" }, 422, /text/],
  ["a text that is too long", "sentiment", { text: "a".repeat(10_001) }, 413, /text .*10000/],
  ["a member that there is not", "sentiment", { text: "a", option: {} }, 422, /option is unknown/],
  ["too many texts", "batch", { texts: Array(101).fill("a") }, 413, /texts .*100/],
  ["one text that is none", "batch", { texts: ["a", 1] }, 422, /texts\[1\] must be string/],
  ["another model", "batch", { texts: ["a"], model: "gpt" }, 422, /model/],
  ["neither image nor URL", "image", {}, 422, /image/],
  ["what is no image", "image", { image: "bm90IGFuIGltYWdl" }, 422, /image/],
  ["a URL, which nobody allowed", "image", { image_url: "https://example.com/cat.jpg" }, 422, /IMAGE_URLS=1/],
  ["neither user nor item", "recommend", { limit: 3 }, 422, /either user_id .* or item_id/],
  ["too many recommendations", "recommend", { user_id: "u", limit: 100_000 }, 413, /limit .*1000/],
  ["an attribute that no item has", "recommend", { user_id: "u", context: { colour: "red" } }, 422, /context\.colour/],
  ["no such route", "nothing", {}, 404, /there is no POST/],
];

for (const [what, path, body, status, tells] of REFUSED) {
  test(`refused: ${what}`, async () => {
    const refused = await post(`/api/predict/${path}`, body);
    assert.equal(refused.status, status);
    assert.match(String(refused.type), /^application\/problem\+json/);
    assert.match(refused.body.detail, tells);
    assert.doesNotMatch(refused.answer.body, /Traceback|node_modules|File "/);
  });
}

test("a body that is no JSON is 400, one beyond 10 MB is 413", async () => {
  const send = (payload: string) =>
    app.inject({
      method: "POST",
      url: "/api/predict/sentiment",
      headers: { "content-type": "application/json" },
      payload,
    });
  assert.equal((await send('{"text": ')).statusCode, 400);
  assert.equal((await send(JSON.stringify({ text: "a".repeat(10 << 20) }))).statusCode, 413);
});

test("who brings no key is refused, though not at /health", async () => {
  const closed = await application(models, { ...QUIET, apiKey: "secret" });
  const ask = async (headers: Record<string, string>) =>
    (await post("/api/predict/sentiment", { text: "Great!" }, headers, closed)).status;
  assert.equal(await ask({}), 401);
  assert.equal(await ask({ "x-api-key": "wrong" }), 401);
  assert.equal(await ask({ "x-api-key": "secret" }), 200);
  assert.equal(await ask({ authorization: "Bearer secret" }), 200);
  assert.equal((await closed.inject("/health")).statusCode, 200);
  await closed.close();
});

test("who asks too often is told when to come again", async () => {
  const limited = await application(models, { ...QUIET, rateLimit: 2 });
  const ask = () => post("/api/predict/sentiment", { text: "Great!" }, {}, limited);
  assert.deepEqual([(await ask()).status, (await ask()).status], [200, 200]);
  const { status, answer } = await ask();
  assert.equal(status, 429);
  assert.ok(Number(answer.headers["retry-after"]) > 0);
  await limited.close();
});

test("a model that is not there is 503, and the others answer", async () => {
  const broken = new Models((module, fn, args) => {
    const there = module === "image_classifier" ? "no_such_module" : module;
    return bridge.callPython(there, fn, args);
  });
  const some = await application(broken, QUIET);
  assert.equal((await some.inject("/health")).json().status, "starting");
  const failed: string[] = [];
  await broken.warmUp((model) => failed.push(model));
  assert.deepEqual(failed, ["image"]);
  assert.equal((await post("/api/predict/image", { image: "aaaa" }, {}, some)).status, 503);
  assert.equal((await post("/api/predict/sentiment", { text: "Great!" }, {}, some)).status, 200);
  const health = await some.inject("/health");
  assert.equal(health.statusCode, 503);
  assert.equal(health.json().models.image, "failed");
  await some.close();
});

test("a model that raises is 500, and tells nobody its insides", async () => {
  const raising = new Models((module, fn, args) =>
    fn === "warmup" ? bridge.callPython(module, fn, args) : bridge.callPython("json", "loads", ["{"]),
  );
  const some = await application(raising, QUIET);
  await raising.warmUp((model, error) => assert.fail(`${model}: ${error}`));
  const { status, body } = await post("/api/predict/sentiment", { text: "Great!" }, {}, some);
  assert.equal(status, 500);
  assert.doesNotMatch(JSON.stringify(body), /JSONDecodeError|Expecting/);
  await some.close();
});

test("health and metrics", async () => {
  const health = (await app.inject("/health")).json();
  assert.equal(health.status, "healthy");
  assert.deepEqual(health.models, { sentiment: "ready", image: "ready", recommender: "ready" });
  assert.match(health.memory.heapUsed, /^\d+ MB$/);
  const metrics = (await app.inject("/metrics")).json();
  const { total, success, error, successRate } = metrics.requests;
  assert.ok(total > 0 && error > 0 && success + error === total);
  assert.match(successRate, /^\d+\.\d\d%$/);
  assert.match(metrics.performance.p99Latency, /^\d+\.\dms$/);
  assert.ok(metrics.models.sentiment.calls >= 3);
  assert.match(metrics.models.image.avgLatency, /^\d+\.\dms$/);
});

/** A grey image as a PNG file. */
function png(size: number, grey: (x: number, y: number) => number): Buffer {
  const rows = Array.from({ length: size }, (_, y) => [0, ...Array.from({ length: size }, (_, x) => grey(x, y))]);
  const head = Buffer.alloc(13);
  head.writeUInt32BE(size, 0);
  head.writeUInt32BE(size, 4);
  head.set([8, 0, 0, 0, 0], 8);
  const chunks: [string, Buffer][] = [
    ["IHDR", head],
    ["IDAT", deflateSync(Buffer.from(rows.flat()))],
    ["IEND", Buffer.alloc(0)],
  ];
  const parts = chunks.map(([name, data]) => {
    const chunk = Buffer.alloc(12 + data.length);
    chunk.writeUInt32BE(data.length, 0);
    chunk.write(name, 4, "latin1");
    data.copy(chunk, 8);
    chunk.writeUInt32BE(crc32(chunk.subarray(4, 8 + data.length)), 8 + data.length);
    return chunk;
  });
  return Buffer.concat([Buffer.from("89504e470d0a1a0a", "hex"), ...parts]);
}

/** Node has had its own since 22.2. */
function crc32(bytes: Buffer): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) {
      crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
  }
  return (crc ^ 0xffffffff) >>> 0;
}
