/** Server-sent events: the format, and coming back. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { EverloopClient } from "everloop";
import { type Message, Parser } from "../../dist/client/events.js";
import { ManualClock } from "./clock.js";
import { broken, problem, type Scene, scripted } from "./scripted.js";

const TEXT =
  'retry: 20\r\nid: 3\n\n: still here\n\nid: 4\nevent: fitted\ndata: {"a":\ndata: "ü"}\n\nid: 5\rdata:no space\r\rdata: cut';

function parsed(pieces: Uint8Array[]): Message[] {
  const parser = new Parser();
  const found = pieces.flatMap((piece) => [...parser.feed(piece)]);
  assert.equal(parser.retry, 20);
  return found;
}

test("every portioning of the bytes gives the same messages", () => {
  const bytes = new TextEncoder().encode(TEXT);
  const wanted = [
    { id: "4", event: "fitted", data: '{"a":\n"ü"}' },
    { id: "5", event: "message", data: "no space" },
  ];
  assert.deepEqual(parsed([bytes]), wanted);
  for (let size = 1; size < bytes.length; size++) {
    const pieces = [];
    for (let at = 0; at < bytes.length; at += size) {
      pieces.push(bytes.subarray(at, at + size));
    }
    assert.deepEqual(parsed(pieces), wanted, `in pieces of ${size} bytes`);
  }
});

const stream =
  (...lines: string[]): Scene =>
  (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end(lines.join(""));
  };
const event = (id: number) => `id: ${id}\nevent: fitted\ndata: ${JSON.stringify({ id, kind: "fitted" })}\n\n`;

test("a stream that ends or breaks is opened again where it was", async (t) => {
  const { url, asked } = await scripted(
    t,
    stream("retry: 20\nid: 7\n\n"), // nothing has happened yet
    stream(event(8), event(9)),
    broken,
    problem(503, "draining"),
    stream(event(10)),
  );
  const client = new EverloopClient({ url, clock: new ManualClock(60_000) });
  t.after(() => client.close());
  const seen: number[] = [];
  for await (const { id } of client.events({ model: "a b" })) {
    seen.push(id);
    if (id === 10) {
      break;
    }
  }
  assert.deepEqual(seen, [8, 9, 10]);
  assert.deepEqual(
    asked.map(({ headers }) => headers["last-event-id"]),
    [undefined, "7", "9", "9", "9"],
  );
  assert.equal(asked[0]?.url, "/v1/events?model=a%20b");
});

test("what does not pass ends the iteration", async (t) => {
  const { url, asked } = await scripted(t, problem(401, "unauthenticated"));
  const client = new EverloopClient({ url, clock: new ManualClock(60_000) });
  t.after(() => client.close());
  await assert.rejects(client.events().next(), { code: "unauthenticated" });
  assert.equal(asked.length, 1);
});

test("after so many attempts in a row it gives up, if told so", async (t) => {
  const { url, asked } = await scripted(t, broken);
  const client = new EverloopClient({ url, clock: new ManualClock(60_000) });
  t.after(() => client.close());
  await assert.rejects(client.events({ attempts: 4 }).next(), { code: "unreachable" });
  assert.equal(asked.length, 4);
});

test("a signal ends it quietly", async (t) => {
  const abort = new AbortController();
  const open: Scene = (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(event(1));
  };
  const { url } = await scripted(t, open);
  const client = new EverloopClient({ url });
  t.after(() => client.close());
  const seen: number[] = [];
  for await (const { id } of client.events({ after: 0, signal: abort.signal })) {
    seen.push(id);
    setImmediate(() => abort.abort());
  }
  assert.deepEqual(seen, [1]);
});

test("a server that began a new journal is told, and read from its beginning", async (t) => {
  const { url, asked } = await scripted(
    t,
    stream(event(16)),
    stream("retry: 20\nid: 0\n\nevent: reset\ndata: {}\n\n", event(1)),
    stream(event(2)),
  );
  const client = new EverloopClient({ url, clock: new ManualClock(60_000) });
  t.after(() => client.close());
  const seen: (number | string)[] = [];
  for await (const { id } of client.events({ restarted: () => seen.push("restarted") })) {
    seen.push(id);
    if (id === 2) {
      break;
    }
  }
  assert.deepEqual(seen, [16, "restarted", 1, 2]);
  assert.deepEqual(
    asked.map(({ headers }) => headers["last-event-id"]),
    [undefined, "16", "1"],
  );
});

test("what is no stream of events, or has an event that is none, is told and not asked for again", async (t) => {
  const page: Scene = (response) => response.writeHead(200, { "content-type": "text/html" }).end("<h1>Log in</h1>");
  const { url, asked } = await scripted(t, page, stream("id: 1\ndata: <br>\n\n"));
  const client = new EverloopClient({ url, clock: new ManualClock(60_000) });
  t.after(() => client.close());
  await assert.rejects(client.events().next(), { code: "not_everloop", message: /<h1>Log in/ });
  await assert.rejects(client.events().next(), { code: "not_everloop", message: /no JSON: <br>/ });
  assert.equal(asked.length, 2);
});
