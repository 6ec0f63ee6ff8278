/** Which function is called, with which arguments, on which thread; what is told of errors, and how calls are given up. */

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import {
  BridgeArgumentError,
  BridgeClosed,
  BridgeOverloaded,
  BridgeTimeout,
  PolyglotBridge,
  PythonError,
} from "everloop/bridge";
import { here, OPTIONS, opened, TRANSPORTS } from "./opened.js";

function raised(type: string, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert(error instanceof PythonError, String(error));
    assert.equal(error.type, type);
    assert.match(error.message, message);
    return true;
  };
}

test("functions are found in modules, files and the object of the module's own name", async (t) => {
  const bridge = opened(t);
  const got = { input: [1, 2] };
  assert.deepEqual(await bridge.callPython("custom_model", "predict", got), { got, warm: false });
  assert.deepEqual(await bridge.callPython("custom_model", "custom_model.predict", got), { got, warm: false });
  assert.deepEqual(await bridge.callPython(here("custom_model.py"), "predict", got), { got, warm: false });
  assert.equal(await bridge.callPython("os.path", "join", ["a", "b"]), "a/b");
  assert.equal(await bridge.callPython("math", "sqrt", 16), 4);
  await assert.rejects(bridge.callPython("no_such_module", "x"), raised("ModuleNotFoundError", /no_such_module/));
  await assert.rejects(bridge.callPython(here("absent.py"), "x"), raised("ModuleNotFoundError", /absent\.py/));
  await assert.rejects(bridge.callPython("broken", "x"), raised("RuntimeError", /this module is broken/));
  await assert.rejects(
    bridge.callPython("things", "absent"),
    raised("AttributeError", /no function 'absent'; it has .*add/),
  );
  await assert.rejects(
    bridge.callPython("things", "kept"),
    raised("TypeError", /things\.kept is a list, not a function/),
  );
});

test("each bridge finds the modules of its own folders, whatever other bridges have loaded", async (t) => {
  const folders = ["one", "two"].map((word) => {
    const folder = mkdtempSync(path.join(tmpdir(), "everloop-test-"));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    mkdirSync(path.join(folder, "packed"));
    writeFileSync(path.join(folder, "namesake.py"), `def where():\n    return "${word}"\n`);
    writeFileSync(path.join(folder, "packed", "__init__.py"), "");
    writeFileSync(path.join(folder, "packed", "inner.py"), `from .word import WORD\n\ndef where():\n    return WORD\n`);
    writeFileSync(path.join(folder, "packed", "word.py"), `WORD = "${word}"\n`);
    return folder;
  });
  const [one, two] = folders.map((modulePath) => opened(t, { modulePath })) as [PolyglotBridge, PolyglotBridge];
  for (const module of ["namesake", "packed.inner"]) {
    // The one that was opened last is first in Python's own path: the other must not take its files, either.
    assert.equal(await one.callPython(module, "where"), "one");
    assert.equal(await two.callPython(module, "where"), "two");
    assert.equal(await one.callPython(module, "where"), "one");
  }
  await two.warmup(["namesake"]);
  assert.equal(await one.callPython(path.join(folders[1] as string, "namesake.py"), "where"), "two");
  assert.equal(await one.callPython("math", "sqrt", [16]), 4);
});

test("arguments go by name, by position or whole", async (t) => {
  const bridge = opened(t);
  const call = (fn: string, args?: unknown) => bridge.callPython("things", fn, args);
  assert.equal(await call("add", { a: 1 }), 11);
  assert.equal(await call("add", { a: 1, b: 2, c: 3 }), 6);
  assert.equal(await call("add", [1, 2]), 3);
  assert.equal(await call("nothing"), "nothing");
  assert.equal(await call("nothing", {}), "nothing");
  assert.equal(await call("nothing", []), "nothing");
  assert.equal(await call("optional", {}), null);
  assert.deepEqual(await call("optional", { options: 1 }), 1);
  assert.deepEqual(await call("optional", { other: 1 }), { other: 1 });
  assert.deepEqual(await call("anything", { a: 1, b: 2 }), { a: 1, b: 2 });
  assert.deepEqual(await call("same", {}), {});
  assert.equal(await call("add", { a: 1, b: undefined }), 11);
  assert.equal(await call("optional", { options: undefined }), null);
  assert.deepEqual(await call("same", { size: 1, colour: undefined }), { size: 1 });
  assert.deepEqual(await call("same", { value: [{ a: undefined }], x: undefined }), [{}]);
  await assert.rejects(call("same", { value: undefined }), raised("TypeError", /missing .* argument: 'value'/));
  await assert.rejects(call("same", { value: undefined, more: 1 }), raised("TypeError", /'more'/));
  await assert.rejects(call("same", { colour: undefined }), raised("TypeError", /missing .* argument: 'value'/));
  await assert.rejects(call("add", {}), raised("TypeError", /missing 1 required positional argument: 'a'/));
  await assert.rejects(call("add", { a: 1, d: 2 }), raised("TypeError", /unexpected keyword argument 'd'/));
  await assert.rejects(call("add", [1, 2, 3, 4]), raised("TypeError", /positional arguments/));
  await assert.rejects(call("generator"), raised("TypeError", /generator cannot be sent/));
});

for (const transport of TRANSPORTS) {
  test(`${transport}: fast functions, coroutines and others run where they should`, async (t) => {
    const bridge = opened(t, { transport, poolSize: 3, fast: ["things.where"] });
    const name = (fn: string) => bridge.callPython<string>("things", fn);
    await name("where_fast"); // The first call looks the function up, on the pool.
    assert.match(await name("where_fast"), /reader|MainThread/);
    await name("where");
    assert.match(await name("where"), /reader|MainThread/);
    await name("where_awaited");
    assert.match(await name("where_awaited"), /loop/);
    assert.match((await bridge.callPython("things", "block", [0])) as string, /everloop-bridge-\d/);
    const threads = await Promise.all(Array.from({ length: 9 }, () => bridge.callPython("things", "block", [0.01])));
    assert(new Set(threads).size <= 3);
    assert((await bridge.callPython<number>("things", "most_running")) <= 3);
    const sleeps = Array.from({ length: 200 }, (_, i) => bridge.callPython("things", "sleep", [i % 2 ? 0.02 : 0.01]));
    assert.equal((await Promise.all(sleeps)).length, 200);
  });

  test(`${transport}: exceptions arrive with type, message and traceback`, async (t) => {
    const bridge = opened(t, { transport });
    await assert.rejects(bridge.callPython("things", "fail", { message: "no good" }), (error) => {
      raised("ValueError", /no good/)(error);
      const { traceback, module, function: fn } = error as PythonError;
      assert.match(traceback, /things\.py", line \d+, in fail/);
      assert.doesNotMatch(traceback, /everloop_bridge/);
      assert.deepEqual([module, fn], ["things", "fail"]);
      return true;
    });
    await assert.rejects(bridge.callPython("things", "fail_deep"), (error) => {
      assert.match((error as PythonError).traceback, /ValueError: inner[\s\S]*direct cause[\s\S]*LookupError: outer/);
      return true;
    });
    await assert.rejects(bridge.callPython("things", "fail_awaited"), raised("KeyError", /later/));
    await assert.rejects(bridge.callPython("things", "leave"), raised("SystemExit", /3/));
    await assert.rejects(
      bridge.callPython("json", "loads", ["{"]),
      raised("json.decoder.JSONDecodeError", /Expecting/),
    );
  });

  test(`${transport}: a call that is given up rejects at once, and its coroutine is cancelled`, async (t) => {
    const bridge = opened(t, { transport, poolSize: 1 });
    await bridge.callPython("things", "sleep", [0]);
    await assert.rejects(bridge.callPython("things", "sleep", [60], { timeout: 20 }), (error) => {
      assert(error instanceof BridgeTimeout);
      assert.match(error.message, /things\.sleep gave no answer within 20 ms/);
      return true;
    });
    const controller = new AbortController();
    const aborted = bridge.callPython("things", "sleep", [61], { signal: controller.signal });
    await bridge.callPython("things", "sleep", [0]); // The one before it has begun then.
    controller.abort(new Error("changed my mind"));
    await assert.rejects(aborted, /changed my mind/);
    await assert.rejects(bridge.callPython("things", "sleep", [1], { signal: controller.signal }), /changed my mind/);
    while (bridge.getMetrics().abandoned > 0) {
      await bridge.callPython("things", "nothing");
    }
    assert.deepEqual(await bridge.callPython("things", "were_cancelled"), [60, 61]);
    // A thread runs on: what waits behind it is answered, and what was given up before it started never runs.
    const running = bridge.callPython("things", "block", [0.1], { timeout: 10 });
    const given = new AbortController();
    const behind = bridge.callPython("things", "keep", ["never"], { signal: given.signal });
    const last = bridge.callPython("things", "nothing");
    await assert.rejects(running, BridgeTimeout);
    given.abort();
    await assert.rejects(behind, { name: "AbortError" });
    assert.equal(await last, "nothing");
    assert.equal(await bridge.callPython("things", "keep", ["first"]), 1);
    await bridge.callPython("things", "forget");
    const metrics = bridge.getMetrics();
    assert.deepEqual([metrics.timedOut, metrics.cancelled, metrics.pending, metrics.abandoned], [2, 2, 0, 0]);
  });

  test(`${transport}: callPythonSync answers, raises and times out like callPython`, async (t) => {
    const bridge = opened(t, { transport });
    assert.equal(bridge.callPythonSync("things", "add", { a: 1 }), 11);
    assert.equal(bridge.callPythonSync("things", "same_awaited", ["x"]), "x");
    assert.throws(() => bridge.callPythonSync("things", "fail", ["sync"]), raised("ValueError", /sync/));
    assert.throws(() => bridge.callPythonSync("things", "sleep", [60], { timeout: 20 }), BridgeTimeout);
    assert.throws(() => bridge.callPythonSync("things", "same", [() => 1]), BridgeArgumentError);
    const large = new Float64Array(100_000).fill(0.5);
    assert.deepEqual(bridge.callPythonSync("things", "same_in_pool", [large]), large);
    // Answers that Node does not read meanwhile must not hold up the thread that it waits for.
    const waiting = Array.from({ length: 40 }, () =>
      bridge.callPython("things", "same_in_pool", ["x".repeat(300_000)]),
    );
    await Promise.resolve();
    assert.equal(bridge.callPythonSync("things", "same_in_pool", [1]), 1);
    assert.equal((await Promise.all(waiting)).length, 40);
  });
}

test("more calls than may wait are refused, and counted until Python has done with them", async (t) => {
  const bridge = opened(t, { maxPending: 2, poolSize: 1 });
  const both = [
    bridge.callPython("things", "block", [0.05]),
    bridge.callPython("things", "block", [0], { timeout: 5 }),
  ];
  await assert.rejects(bridge.callPython("things", "nothing"), BridgeOverloaded);
  await assert.rejects(both[1] as Promise<unknown>, BridgeTimeout);
  await assert.rejects(bridge.callPython("things", "nothing"), BridgeOverloaded);
  await both[0];
  while (bridge.getMetrics().abandoned > 0) {
    await new Promise(setImmediate);
  }
  assert.equal(await bridge.callPython("things", "nothing"), "nothing");
  assert.equal(bridge.getMetrics().overloaded, 2);
});

test("arguments that wait are bounded in bytes, too, and what was refused is not kept", async (t) => {
  const bridge = opened(t, { maxPendingBytes: 1_000_000, poolSize: 1 });
  const large = new Float64Array(200_000);
  const first = bridge.callPython("things", "total", [large]);
  await assert.rejects(bridge.callPython("things", "nothing"), /arguments of 16\d{5} bytes wait/);
  assert.equal(await first, 0);
  assert.equal(await bridge.callPython("things", "nothing"), "nothing");
  await assert.rejects(bridge.callPython("things", "same", [large, () => 1]), BridgeArgumentError);
  assert.equal(bridge.getInfo().lent, 0);
});

test("one signal ends many calls, with one listener", async (t) => {
  const bridge = opened(t);
  const warnings: Error[] = [];
  const listen = (warning: Error) => warnings.push(warning);
  process.on("warning", listen);
  t.after(() => process.off("warning", listen));
  const controller = new AbortController();
  const calls = Array.from({ length: 40 }, (_, i) =>
    bridge.callPython("things", "sleep", [i < 20 ? 0 : 60], { signal: controller.signal }),
  );
  await Promise.all(calls.slice(0, 20));
  controller.abort(new Error("all of them"));
  for (const call of calls.slice(20)) {
    await assert.rejects(call, /all of them/);
  }
  await new Promise(setImmediate);
  assert.deepEqual(warnings, []);
});

test("warmup imports modules and calls their warmup", async (t) => {
  const bridge = opened(t);
  const took = await bridge.warmup(["custom_model", "things"]);
  assert.deepEqual(Object.keys(took), ["custom_model", "things"]);
  assert.deepEqual(await bridge.callPython("custom_model", "predict", [1]), { got: 1, warm: true });
  await assert.rejects(bridge.warmup(["broken"]), raised("RuntimeError", /broken/));
});

test("metrics tell of calls and functions, and start again", async (t) => {
  const bridge = opened(t);
  for (let i = 0; i < 20; i++) {
    await bridge.callPython("things", "nothing");
  }
  await assert.rejects(bridge.callPython("things", "fail", ["x"]));
  const told = bridge.getMetrics();
  assert.deepEqual([told.calls, told.succeeded, told.failed], [21, 20, 1]);
  assert.equal(told.functions["things.nothing"]?.calls, 20);
  assert.equal(told.functions["things.fail"]?.errors, 1);
  const { p50, p95, p99, max, mean } = told.latencyMs;
  assert(0 < p50 && p50 <= p95 && p95 <= p99 && p99 <= max && mean <= max);
  bridge.resetMetrics();
  assert.deepEqual([bridge.getMetrics().calls, bridge.getMetrics().functions], [0, {}]);
  for (let i = 0; i < 1100; i++) {
    await assert.rejects(bridge.callPython("things", `absent_${i}`));
  }
  assert(Object.keys(bridge.getMetrics().functions).length <= 1001);
});

test("a bridge tells what it is, and refuses options that mean nothing", async (t) => {
  const bridge = opened(t, { poolSize: 7 });
  assert.equal(await bridge.callPython("sys", "getswitchinterval"), 0.0005); // Else busy threads hold small calls up.
  const info = bridge.getInfo();
  assert.equal(info.transport, "in-process");
  assert.equal(info.poolSize, 7);
  assert.equal(info.python.pid, process.pid);
  assert.match(info.python.version, /^3\./);
  for (const wrong of [
    { poolSize: 0 },
    { poolSize: 1.5 },
    { timeout: -1 },
    { timeout: Number.NaN },
    { maxPending: 0 },
  ]) {
    assert.throws(() => new PolyglotBridge({ ...OPTIONS, ...wrong }), RangeError);
  }
  const untyped: [object, RegExp][] = [
    [{ poolsize: 2 }, /no option poolsize/],
    [{ transport: "thread" }, /transport is "in-process" or "process", not "thread"/],
    [{ modulePath: "/no/such/folder" }, /no folder \/no\/such\/folder/],
    [{ pythonPath: 5 }, /pythonPath is a path, not 5/],
    [{ fast: ["double"] }, /fast names functions as "module\.function", not "double"/],
  ];
  const call = bridge.callPython.bind(bridge) as (...args: unknown[]) => Promise<unknown>;
  await assert.rejects(call("things"), {
    name: "BridgeArgumentError",
    message: /fn is a name, not of the type undefined/,
  });
  for (const [wrong, told] of untyped) {
    assert.throws(() => new PolyglotBridge({ ...OPTIONS, ...wrong }), told);
  }
});

test("a closed bridge lets calls under way end, and refuses others", async () => {
  const bridge = new PolyglotBridge(OPTIONS);
  const last = bridge.callPython("things", "sleep", [0.02]);
  const closing = bridge.close();
  await assert.rejects(bridge.callPython("things", "nothing"), BridgeClosed);
  assert.equal(await last, 0.02);
  await closing;
  await bridge.close();
  const stuck = new PolyglotBridge(OPTIONS);
  const given = assert.rejects(stuck.callPython("things", "sleep", [60]), BridgeClosed);
  await stuck.close({ timeout: 20 });
  await given;
});

for (const transport of TRANSPORTS) {
  test(`${transport}: calls that callPythonSync gave up keep their places until Python has answered them`, async (t) => {
    const bridge = opened(t, { transport, poolSize: 2, maxPending: 2 });
    bridge.callPythonSync("things", "nothing");
    for (let i = 0; i < 2; i++) {
      assert.throws(() => bridge.callPythonSync("things", "block", [0.2], { timeout: 5 }), BridgeTimeout);
    }
    assert.equal(bridge.getMetrics().abandoned, 2);
    assert.throws(() => bridge.callPythonSync("things", "nothing"), BridgeOverloaded);
    while (bridge.getMetrics().abandoned > 0) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.equal(bridge.callPythonSync("things", "nothing"), "nothing");
  });
}

test("a timeout that no timer can hold is no end, and what is no time is refused", async (t) => {
  const bridge = opened(t, { timeout: Infinity, poolSize: 1 });
  for (const timeout of [undefined, Infinity, 2 ** 31, Number.MAX_VALUE]) {
    const options = timeout === undefined ? {} : { timeout };
    assert.equal(
      await bridge.callPython("things", "block", [0.01], options),
      await bridge.callPython("things", "block", [0]),
    );
  }
  for (const timeout of [-1, Number.NaN]) {
    await assert.rejects(bridge.callPython("things", "nothing", [], { timeout }), RangeError);
    assert.throws(() => bridge.callPythonSync("things", "nothing", [], { timeout }), RangeError);
  }
});
