/** What Python functions and JavaScript values do to a bridge that must not corrupt an answer, end, or keep memory for it. */

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { BridgeArgumentError, BridgeCrashed, NdArray, type PolyglotBridge, PythonError } from "everloop/bridge";
import { opened, TRANSPORTS } from "./opened.js";

const LARGE = 100_000;

/** Until nothing is lent any more; nothing is called meanwhile. */
async function allReleased(bridge: PolyglotBridge, t: TestContext): Promise<void> {
  while (bridge.getInfo().lent > 0) {
    assert(!t.signal.aborted);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

for (const transport of TRANSPORTS) {
  test(`${transport}: an array that Python writes to again is answered as it was`, async (t) => {
    const bridge = opened(t, { transport, poolSize: 1 });
    await bridge.callPython("hostile", "filled_fast", [0]);
    for (const fn of ["filled", "filled_fast", "own"]) {
      const calls = Array.from({ length: 8 }, (_, i) => bridge.callPython<Float64Array>("hostile", fn, [i]));
      const answers = await Promise.all(calls);
      assert.deepEqual(
        answers.map((array) => [array.length, array[0], array[LARGE - 1]]),
        answers.map((_, i) => [LARGE, i, i]),
      );
    }
    const calls = Array.from({ length: 8 }, (_, i) =>
      bridge.callPython<{ a: Float64Array; b: Float64Array[] }>("hostile", "filled_inside", [i]),
    );
    const answers = await Promise.all(calls);
    assert.deepEqual(
      answers.map(({ a, b }) => [a.length, a[0], b[0]?.[7]]),
      answers.map((_, i) => [LARGE - 1, i, i]),
    );
  });

  test(`${transport}: a getter, a toJSON or a Map that calls the bridge or changes while it is read`, async (t) => {
    const bridge = opened(t, { transport });
    const same = (value: unknown, options = {}) => bridge.callPython("things", "same", [value], options);
    const inner: Promise<unknown>[] = [];
    const outer = same({
      a: 1,
      get b() {
        inner.push(same(["inner", new Float64Array(LARGE)]));
        const abort = new AbortController();
        inner.push(assert.rejects(same(1, { signal: abort.signal })));
        abort.abort();
        assert.equal(bridge.callPythonSync("things", "same", ["sync"]), "sync");
        return 2;
      },
      c: new (class {
        toJSON() {
          inner.push(same(3));
          return 3;
        }
      })(),
    });
    assert.deepEqual(await outer, { a: 1, b: 2, c: 3 });
    const [first, , last] = await Promise.all(inner);
    assert.deepEqual(first, ["inner", new Float64Array(LARGE)]);
    assert.equal(last, 3);
    const growing = new Map<string, unknown>();
    growing.set("a", {
      get b() {
        growing.set("c", 1);
        return 2;
      },
    });
    await assert.rejects(
      same(growing),
      (error) => error instanceof BridgeArgumentError && /changes/.test(error.message),
    );
    const failing = same({
      get a() {
        inner.push(same("sent all the same"));
        throw new Error("of the getter");
      },
    });
    await assert.rejects(failing, /of the getter/);
    assert.equal(await inner.pop(), "sent all the same");
  });

  test(`${transport}: an NdArray that is not what it was when it was made is refused`, async (t) => {
    const bridge = opened(t, { transport });
    const Resizable = ArrayBuffer as unknown as new (
      size: number,
      options: { maxByteLength: number },
    ) => ArrayBuffer & { resize(size: number): void };
    const buffer = new Resizable(8 * LARGE, { maxByteLength: 8 * LARGE });
    const shrunk = new NdArray(new Float64Array(buffer), [LARGE]);
    buffer.resize(8 * 5000);
    const reshaped = new NdArray(new Float64Array(4), [4]);
    (reshaped as unknown as { shape: number[] }).shape = [1000];
    const odd = new NdArray(new Float64Array(4), [-2, -2]);
    class Disguised extends Uint8Array {
      override get [Symbol.toStringTag](): "Uint8Array" {
        return "Float64Array" as "Uint8Array";
      }
    }
    for (const array of [shrunk, reshaped, odd, new Disguised(LARGE)]) {
      await assert.rejects(
        bridge.callPython("things", "same", [array]),
        (error) => error instanceof BridgeArgumentError && /^args\[0\] has \d+ bytes/.test(error.message),
      );
    }
    assert.equal(bridge.getInfo().lent, 0);
  });
}

for (const transport of TRANSPORTS) {
  test(`${transport}: no function ends a thread that others need`, async (t) => {
    const bridge = opened(t, { transport, poolSize: 2 });
    const raises = async (fn: string, type: RegExp) =>
      assert.rejects(
        bridge.callPython("hostile", fn),
        (error) => error instanceof PythonError && type.test(error.type),
      );
    for (let i = 0; i < 3; i++) {
      await raises("dead", /ReferenceError/);
      await raises("dead_fast", /ReferenceError/);
      await raises("unreadable", /Unreadable/);
      await raises("unreadable_fast", /Unreadable/);
      await raises("halting_fast", /KeyboardInterrupt/);
      assert.equal(await bridge.callPython("hostile", "child_leaves"), true);
      await bridge.callPython("hostile", "stop_the_loop");
    }
    await bridge.callPython("things", "sleep", [0]); // Looked up: the next one is on the loop that breaks.
    const waiting = assert.rejects(bridge.callPython("things", "sleep", [60]), PythonError);
    await assert.rejects(bridge.callPython("hostile", "break_the_loop"), PythonError);
    await waiting;
    for (const fn of ["same", "same_in_pool", "same_awaited"]) {
      assert.equal(await bridge.callPython("things", fn, [1]), 1);
      assert.equal(bridge.callPythonSync("things", fn, [1]), 1);
    }
    assert.equal(bridge.getMetrics().restarts, 0);
  });

  test(`${transport}: callPythonSync in a temporary folder whose name is too long for a socket`, async (t) => {
    const long = path.join(mkdtempSync(path.join(tmpdir(), "everloop-test-")), "x".repeat(120));
    mkdirSync(long);
    const before = process.env.TMPDIR;
    process.env.TMPDIR = long;
    t.after(() => {
      process.env.TMPDIR = before;
      if (before === undefined) {
        delete process.env.TMPDIR;
      }
      rmSync(path.dirname(long), { recursive: true });
    });
    assert.equal(opened(t, { transport }).callPythonSync("things", "same", [1]), 1);
  });
}

test("a file whose import takes long holds up no other", async (t) => {
  const bridge = opened(t);
  const folder = mkdtempSync(path.join(tmpdir(), "everloop-test-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const [slow, quick] = [path.join(folder, "slow_to_import.py"), path.join(folder, "quick_to_import.py")];
  const waits = "import quick_to_import\nquick_to_import.imported.wait(50)\ndef name(): return __name__\n";
  writeFileSync(slow, waits);
  writeFileSync(quick, "import threading\nimported = threading.Event()\ndef go(): imported.set()\ndef no(): pass\n");
  await bridge.callPython(quick, "no");
  const importing = bridge.callPython(slow, "name");
  await bridge.callPython(quick, "go"); // A function that is looked up while the other file's import waits for it.
  assert.equal(await importing, "slow_to_import");
});

test("in-process: a bridge whose Python end broke has another with the next call", async (t) => {
  const bridge = opened(t, { transport: "in-process" });
  const array = new Float64Array(LARGE).fill(1);
  await bridge.callPython("things", "keep", [array]);
  const lost = ["sleep"].map((fn) => assert.rejects(bridge.callPython("things", fn, [60]), BridgeCrashed));
  await assert.rejects(bridge.callPython("hostile", "end_the_reader"), BridgeCrashed);
  await Promise.all(lost);
  assert.equal(await bridge.callPython("things", "kept_total"), LARGE);
  await bridge.callPython("things", "forget");
  assert.equal(bridge.callPythonSync("things", "same", [1]), 1);
  assert.equal(bridge.getMetrics().restarts, 1);
});

test("process: callPythonSync sees that Python has died, and the next call has another, in the same turn", (t) => {
  const bridge = opened(t, { transport: "process", timeout: 0 });
  for (let i = 0; i < 2; i++) {
    assert.throws(() => bridge.callPythonSync("os", "_exit", [7]), BridgeCrashed);
    assert.equal(bridge.callPythonSync("things", "same", [i]), i);
  }
});

test("process: so does the first callPythonSync after its end", { skip: process.platform !== "linux" }, async (t) => {
  const bridge = opened(t, { transport: "process", timeout: 0 });
  const pid = (await bridge.callPython("os", "getpid")) as number;
  process.kill(pid, "SIGKILL");
  assert.throws(() => bridge.callPythonSync("things", "same", [1]), BridgeCrashed);
  assert.equal(await bridge.callPython("things", "same", [1]), 1);
});

test("in-process: memory of an answer that cannot be sent is let go, and so is that of one that was", async (t) => {
  const bridge = opened(t, { transport: "in-process" });
  for (let i = 0; i < 3; i++) {
    await assert.rejects(bridge.callPython("hostile", "one_cannot_be_sent"), PythonError);
    const [array, huge] = await bridge.callPython<[Float64Array, bigint]>("hostile", "one_is_huge");
    assert.deepEqual([array.length, huge], [LARGE, 2n ** 100n]);
    assert.equal(bridge.callPythonSync<unknown[]>("hostile", "one_is_huge").length, 2);
  }
  while ((await bridge.callPython("hostile", "kept_alive")) !== 0) {
    assert(!t.signal.aborted);
  }
});

test("in-process: large arguments are let go without a further call, whatever became of theirs", async (t) => {
  const bridge = opened(t, { transport: "in-process" });
  const array = new Float64Array(LARGE).fill(1);
  assert.equal(await bridge.callPython("hostile", "total_awaited", [array]), LARGE);
  await assert.rejects(bridge.callPython("hostile", "refuses", [array]), PythonError);
  const unread = new NdArray(new Float64Array(1), new Array(70).fill(1)); // NumPy has no so many axes.
  await assert.rejects(
    bridge.callPython("things", "add", [unread, array, Buffer.alloc(LARGE)]),
    /arguments could not be read in Python/,
  );
  assert.throws(() => bridge.callPythonSync("things", "add", [unread, array]));
  assert.deepEqual(await bridge.callPython("things", "same", [array]), array);
  await allReleased(bridge, t);
  assert.equal(bridge.callPythonSync("things", "total", [array]), LARGE);
  await allReleased(bridge, t);
});
