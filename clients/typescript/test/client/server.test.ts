/** The client against the real server: what it sends is understood, and what it says of the answers is so. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, describe, test } from "node:test";
import { EverloopClient, type EverloopEvent } from "everloop";
import { MISSING, Server } from "../everloop.js";

interface House {
  size: number;
}

const houses = Array.from({ length: 60 }, (_, i) => ({ features: { size: i + 1 }, label: 3 * (i + 1) }));

describe("against a server", { skip: MISSING }, () => {
  let server: Server;
  let client: EverloopClient;
  const seen: EverloopEvent[] = [];
  let listening: Promise<void>;

  before(async () => {
    server = await Server.start("--showcase");
    client = new EverloopClient({ url: server.url });
    const kinds = new Set<string>();
    listening = (async () => {
      for await (const event of client.events({ model: "price", after: 0 })) {
        seen.push(event);
        kinds.add(event.kind);
        if (kinds.has("registered") && kinds.has("rollout_ended")) {
          break;
        }
      }
    })();
    await client.createModel({ name: "price", kind: "linear", learning: { min_samples: 10 } });
    await client.model<House, number>("price").feedback(houses);
    await client.model("price").train();
  });

  after(async () => {
    await client.close();
    await server.stop();
  });

  test("predictions have the types of the model's own rows and labels", async () => {
    const price = client.model<House, number>("price");
    const one = await price.predict({ size: 7 });
    assert(Math.abs(one.prediction - 21) < 0.5);
    const { predictions } = await price.predictBatch([{ size: 7 }, { size: 8 }], { unit: "用户 7", deadline: 20_000 });
    assert.deepEqual(
      predictions.map((value) => Math.round(value)),
      [21, 24],
    );
    assert.equal((await client.predict<number>("price", [7])).prediction, one.prediction);
  });

  test("a label finds its answer, and counts once", async () => {
    const price = client.model<House, number>("price");
    const { request_id } = await price.predict({ size: 9 });
    const label = { request_id, label: 27 };
    const first = await price.feedback(label, { idempotencyKey: "once" });
    assert.deepEqual([first.accepted, first.duplicate], [1, false]);
    const again = await price.feedback(label, { idempotencyKey: "once" });
    assert.deepEqual([again.accepted, again.duplicate], [1, true]);
    const { rejected } = await price.feedback([{ request_id: "none-0", label: 1 }, label]);
    assert.equal(rejected[0]?.code, "prediction_not_found");
  });

  test("rows without end come back in order", async () => {
    const rows = function* () {
      for (let size = 1; size <= 3000; size++) {
        yield { size };
      }
    };
    let number = 0;
    for await (const answer of client.model<House, number>("price").score(rows(), { batchSize: 200 })) {
      assert.equal(answer.number, number++);
      assert(Math.abs(answer.prediction - 3 * answer.row.size) < 0.01 * 3 * answer.row.size + 0.5);
    }
    assert.equal(number, 3000);
  });

  test("a row that is wrong is told in its place", async () => {
    const rows = [[1], [2], ["three"], [4]];
    const errors: (string | undefined)[] = [];
    for await (const { error } of client.model("price").score(rows, { errors: "give" })) {
      errors.push(error?.code);
    }
    assert.deepEqual(errors, [undefined, undefined, "invalid_input", undefined]);
    await assert.rejects(client.predictBatch("price", rows), { code: "invalid_input", field: /^instances\[2\]/ });
  });

  test("refusals are told apart by their codes", async () => {
    await assert.rejects(client.predict("prise", [1]), { code: "model_not_found", status: 404, message: /price/ });
    await assert.rejects(client.model("price").version(99), { code: "version_not_found" });
    await assert.rejects(client.model("price").publish(new Uint8Array([1, 2, 3])), {
      name: "EverloopError",
      status: 422,
    });
  });

  test("models, versions and what happened", async () => {
    const names = (await client.models()).map(({ name }) => name);
    assert.deepEqual(names.sort(), ["image", "price", "recommender", "sentiment"]);
    const info = await client.model("price").info();
    assert.equal(info.live_version, 1);
    assert.deepEqual(
      info.schema?.fields.map(({ name }) => name),
      ["size"],
    );
    const [first] = await client.model("price").versions();
    assert.equal(first?.status, "live");
    const drift = await client.call("GET", "/v1/models/{model}/drift", { path: { model: "price" } });
    assert.deepEqual(drift.alarms, []);
    const told = (await client.model("price").timeline({ limit: 1 })).map(({ kind }) => kind);
    assert.deepEqual(told, ["registered"]);
    assert.equal((await client.health()).models.price, "ready");
  });

  test("a rollout is started, watched to its end, and taken back; events tell of it", async () => {
    const price = client.model<House, number>("price");
    const file = await client.call("GET", "/v1/models/{model}/export", { path: { model: "price" } });
    assert(file instanceof Uint8Array && file.length > 0);
    await price.feedback({ features: { size: 5 }, label: 15 });
    const imported = await client.call("POST", "/v1/imports", { body: file, query: { live: false } });
    assert.equal(imported.name, "price");
    const newest = (await price.versions()).at(-1);
    assert(newest && newest.version > 1);
    const begun = await price.rollouts.start({ version: newest.version, strategy: "shadow", seconds: 600 });
    assert.equal(begun.state, "running");
    const states: string[] = [];
    for await (const { state, revision } of price.rollouts.watch({ interval: 10 })) {
      states.push(state);
      if (state === "running") {
        await price.rollouts.rollback({ note: "enough seen", revision });
      }
    }
    assert.deepEqual([states[0], states.at(-1)], ["running", "rolled_back"]);
    assert.equal((await price.rollouts.list()).length, 1);
    await listening;
    const ids = seen.map(({ id }) => id);
    assert.deepEqual(
      ids,
      [...new Set(ids)].sort((a, b) => a - b),
    );
    assert(seen.every(({ model }) => model === "price"));
  });

  test("texts, images and recommendations", async () => {
    const { showcase } = client;
    const text = "This is amazing! Elide makes polyglot programming so easy!";
    const answer = await showcase.analyze(text, { detailed: true });
    assert.deepEqual([answer.sentiment, answer.model, answer.words !== undefined], ["positive", "sentiment-v1", true]);
    const { results } = await showcase.analyzeBatch(["I hate this", text]);
    assert.deepEqual(
      results.map(({ sentiment }) => sentiment),
      ["negative", "positive"],
    );
    const { recommendations } = await showcase.recommend({ user_id: "nobody yet", limit: 3 });
    assert.equal(recommendations.length, 3);
    await assert.rejects(showcase.classify(new Uint8Array([1, 2, 3])), { status: 422 });
    await assert.rejects(showcase.classify(new URL("http://127.0.0.1/x.png")), { name: "EverloopError" });
    assert((await showcase.models()).some(({ routes }) => routes.includes("/api/predict/sentiment")));
  });

  test("a program that is done ends, though it closes nothing", async () => {
    const everloop = new URL("../../dist/index.js", import.meta.url).href;
    const program = `
      import { EverloopClient } from ${JSON.stringify(everloop)};
      const client = new EverloopClient({ url: ${JSON.stringify(server.url)} });
      await Promise.all([client.models(), client.predict("price", [1])]);
      console.log("done");
    `;
    const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    assert.equal(await new Promise((resolve) => child.once("exit", resolve)), 0);
  });

  test("a key is asked for when there is one", async () => {
    const made = await client.call("POST", "/v1/keys", { body: { name: "root", scopes: ["admin"] } });
    await assert.rejects(client.predict("price", [1]), { code: "unauthenticated", status: 401 });
    const admin = new EverloopClient({ url: server.url, apiKey: made.key });
    const { key } = await admin.call("POST", "/v1/keys", { body: { name: "mine", scopes: ["predict"] } });
    await admin.close();
    const mine = new EverloopClient({ url: server.url, apiKey: key });
    await mine.predict("price", [1]);
    await assert.rejects(mine.model("price").train(), { code: "forbidden", status: 403 });
    await mine.close();
  });
});
