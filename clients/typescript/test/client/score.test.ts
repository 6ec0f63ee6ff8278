/** Many rows: in order, bounded, and ended cleanly whoever ends them. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { EverloopError } from "everloop";
import { type Ask, scoreAll } from "../../dist/client/score.js";

const answer = (predictions: number[]) => ({ predictions, model_version: 1, request_id: "r" });

async function all<T>(from: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const each of from) {
    found.push(each);
  }
  return found;
}

function* upTo(count: number): Generator<number> {
  for (let i = 0; i < count; i++) {
    yield i;
  }
}

test("answers come in the order of the rows, whichever batch is first", async () => {
  const ask: Ask<number, number> = async (rows) => {
    for (let i = 0; i < (rows[0] ?? 0) % 5; i++) {
      await new Promise(setImmediate);
    }
    return answer(rows.map((row) => row * 2));
  };
  const found = await all(scoreAll(ask, upTo(103), { batchSize: 7, concurrency: 5 }));
  assert.deepEqual(
    found.map(({ number, row, prediction }) => [number, row, prediction]),
    [...upTo(103)].map((i) => [i, i, i * 2]),
  );
  assert.deepEqual(
    found.slice(6, 8).map(({ index }) => index),
    [6, 0],
  );
});

test("no more is read than is under way", async () => {
  let read = 0;
  let most = 0;
  let underWay = 0;
  const source = function* () {
    for (; read < 1000; read++) {
      yield read;
    }
  };
  const ask: Ask<number, number> = async (rows) => {
    most = Math.max(most, ++underWay);
    await new Promise(setImmediate);
    underWay--;
    return answer(rows);
  };
  let seen = 0;
  for await (const _ of scoreAll(ask, source(), { batchSize: 10, concurrency: 3 })) {
    seen++;
    assert(read <= seen + 5 * 10, `${read} rows were read when ${seen} were given out`);
  }
  assert.equal(seen, 1000);
  assert.equal(most, 3);
});

test("whoever stops reading ends the source and the requests", async () => {
  let closed = false;
  const aborted: boolean[] = [];
  const source = async function* () {
    try {
      yield* upTo(1000);
    } finally {
      closed = true;
    }
  };
  const ask: Ask<number, number> = async (rows, signal) => {
    signal.addEventListener("abort", () => aborted.push(true));
    await new Promise(setImmediate);
    return answer(rows);
  };
  for await (const { number } of scoreAll(ask, source(), { batchSize: 2, concurrency: 4 })) {
    if (number === 3) {
      break;
    }
  }
  assert.equal(closed, true);
  assert(aborted.length > 0);
});

test("a signal ends it while the source is silent", async () => {
  const abort = new AbortController();
  const silent = async function* () {
    yield 1;
    await new Promise(() => {});
  };
  const scoring = all(scoreAll(async (rows) => answer(rows), silent(), { signal: abort.signal }));
  setImmediate(() => abort.abort(new Error("enough")));
  await assert.rejects(scoring, { message: "enough" });
});

test("a source that fails fails the scoring, behind the answers of what it gave", async () => {
  const failing = function* () {
    yield* upTo(6);
    throw new Error("the file ends early");
  };
  const scoring = scoreAll<number, number>(async (rows) => answer(rows), failing(), { batchSize: 4 });
  for (const row of upTo(6)) {
    assert.equal((await scoring.next()).value?.row, row);
  }
  await assert.rejects(scoring.next(), { message: "the file ends early" });
});

test("with `linger` a slow source waits for nobody", async () => {
  let goOn = () => {};
  const slow = async function* () {
    yield 1;
    await new Promise<void>((resolve) => {
      goOn = resolve;
    });
    yield 2;
  };
  const found: number[] = [];
  for await (const { prediction } of scoreAll<number, number>(async (rows) => answer(rows), slow(), { linger: 1 })) {
    found.push(prediction ?? -1);
    goOn();
  }
  assert.deepEqual(found, [1, 2]);
});

test("a source that fails while nobody waits for it does so when somebody does", async () => {
  let fail = () => {};
  const slow = async function* () {
    yield 1;
    await new Promise<void>((_, reject) => {
      fail = () => reject(new Error("the line went dead"));
    });
  };
  const scoring = scoreAll<number, number>(async (rows) => answer(rows), slow(), { linger: 1, concurrency: 1 });
  assert.equal((await scoring.next()).value?.prediction, 1);
  fail();
  await new Promise(setImmediate);
  await assert.rejects(scoring.next(), { message: "the line went dead" });
});

test("a bad row is an error in its own place, and the rest is answered", async () => {
  const ask: Ask<number, number> = async (rows) => {
    if (rows.some((row) => row % 50 === 13)) {
      throw new EverloopError({ code: "invalid_input", detail: "unlucky", status: 422 });
    }
    return answer(rows);
  };
  const found = await all(scoreAll(ask, upTo(128), { batchSize: 32, errors: "give" }));
  assert.deepEqual(
    found.filter(({ error }) => error).map(({ number }) => number),
    [13, 63, 113],
  );
  assert.deepEqual(
    found.map(({ row }) => row),
    [...upTo(128)],
  );
  await assert.rejects(all(scoreAll(ask, upTo(128), { batchSize: 32 })), { code: "invalid_input" });
});

test("what no row is to blame for ends it all the same", async () => {
  const ask: Ask<number, number> = async () => {
    throw new EverloopError({ code: "model_not_found", detail: "no such model", status: 404 });
  };
  await assert.rejects(all(scoreAll(ask, upTo(10), { errors: "give" })), { code: "model_not_found" });
});

test("sizes that cannot be are refused", async () => {
  await assert.rejects(all(scoreAll(async (rows: number[]) => answer(rows), [1], { batchSize: 0 })), RangeError);
});

test("no row is given after the signal has ended it", async () => {
  const abort = new AbortController();
  const seen: number[] = [];
  const scored = scoreAll(async (rows: number[]) => answer(rows), [1, 2, 3], { signal: abort.signal });
  await assert.rejects(async () => {
    for await (const { number } of scored) {
      seen.push(number);
      abort.abort(new Error("enough"));
    }
  }, /enough/);
  assert.deepEqual(seen, [0]);
});
