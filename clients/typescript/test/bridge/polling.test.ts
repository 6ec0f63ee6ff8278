/** Staying awake for an answer, in time that the test tells. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { BusyPoll } from "../../dist/bridge/polling.js";
import { opened } from "./opened.js";

const turns = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) {
    await new Promise((resolve) => setImmediate(resolve));
  }
};

/** Asks `waiting` at each turn of the event loop, and how often it was asked. */
function polled({ wanted = true, cores = 2 } = {}) {
  const told = { now: 0, waiting: true, asked: 0 };
  const poll = new BusyPoll(
    wanted,
    () => {
      told.asked += 1;
      return told.waiting;
    },
    cores,
    () => told.now,
  );
  return { poll, told };
}

test("behind a quick answer the event loop turns until the next one is there, or is late", async () => {
  const { poll, told } = polled();
  poll.answered(0.02);
  poll.asked();
  await turns(10);
  assert.ok(told.asked >= 9, `${told.asked} turns`);
  told.waiting = false;
  await turns(2);
  const asked = told.asked;
  await turns(10);
  assert.equal(told.asked, asked, "its answer has come");

  told.waiting = true;
  poll.asked();
  await turns(3);
  told.now += 0.1;
  await turns(2);
  const late = told.asked;
  await turns(10);
  assert.equal(told.asked, late, "the answer is late");
});

test("nobody stays awake before the first answer, behind a slow one, on a single core, or where it is not wanted", async () => {
  const none = [polled(), polled(), polled({ cores: 1 }), polled({ wanted: false })] as const;
  none[1].poll.answered(0.02);
  none[1].poll.answered(3);
  none[2].poll.answered(0.02);
  none[3].poll.answered(0.02);
  for (const { poll, told } of none) {
    poll.asked();
    await turns(5);
    assert.equal(told.asked, 0);
  }
});

for (const busyPoll of [true, false]) {
  test(`calls are answered with busyPoll ${busyPoll}, one after another and together`, async (t) => {
    const bridge = opened(t, { busyPoll, fast: ["things.same"] });
    for (let i = 0; i < 200; i++) {
      assert.equal(await bridge.callPython("things", "same", [i]), i);
    }
    const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => bridge.callPython("things", "same", [i])));
    assert.deepEqual(answers, [...Array(200).keys()]);
  });
}
