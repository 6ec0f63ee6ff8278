/** Where Python runs, what happens when it dies, and how Node ends: programs of their own, both transports. */

import assert from "node:assert/strict";
import { execFile, execFileSync, spawn } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { BridgeCrashed, BridgeStartError, BridgeTimeout, PolyglotBridge } from "everloop/bridge";
import { OPTIONS, opened, program, TRANSPORTS } from "./opened.js";

interface Ended {
  status: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
}

/** Run a Node program to its end; `seen` gets its output as it comes. */
function ran(
  text: string,
  seen: (stdout: string, kill: (signal: NodeJS.Signals) => void) => void = () => {},
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["--input-type=module", "-e", text], { stdio: ["ignore", "pipe", "pipe"] });
    const ended = { stdout: "", stderr: "" };
    child.stdout.on("data", (data) => {
      ended.stdout += data;
      seen(ended.stdout, (signal) => child.kill(signal));
    });
    child.stderr.on("data", (data) => {
      ended.stderr += data;
    });
    child.on("error", reject);
    child.on("close", (status, signal) => resolve({ status, signal, ...ended }));
  });
}

function folder(t: TestContext): string {
  const made = mkdtempSync(path.join(tmpdir(), "everloop-test-"));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

/** An executable that describes itself as Python would, and is none. */
function pretender(t: TestContext, told: Record<string, unknown>): string {
  const at = path.join(folder(t), "python");
  const described = {
    executable: at,
    version: "3.11.7",
    prefix: "/nowhere",
    minor: "3.11",
    implementation: "cpython",
    folders: [],
    names: [],
    msgspec: true,
    ...told,
  };
  writeFileSync(at, `#!/bin/sh\ncat <<'END'\n${JSON.stringify(described)}\nEND\n`);
  chmodSync(at, 0o755);
  return at;
}

for (const transport of TRANSPORTS) {
  test(`${transport}: Node ends by itself, and by every other way, while Python is busy`, async () => {
    const busy = `await bridge.callPython("things", "burn"); console.log(await bridge.callPython("things", "add", [1, 2]));`;
    const ways: [string, (ended: Ended) => void][] = [
      [`${busy}`, (e) => assert.equal(e.status, 0)],
      [`${busy} bridge.callPythonSync("things", "nothing");`, (e) => assert.equal(e.status, 0)],
      [`${busy} process.exit(7);`, (e) => assert.equal(e.status, 7)],
      [`${busy} setTimeout(() => { throw new Error("unexpected"); });`, (e) => assert.match(e.stderr, /unexpected/)],
      [`${busy} await bridge.callPython("things", "sleep", [600]);`, (e) => assert.equal(e.signal, "SIGTERM")],
      [`${busy} await bridge.close();`, (e) => assert.equal(e.status, 0)],
    ];
    const all = ways.map(async ([text, check]) => {
      const ended = await ran(program(text, { transport }), (stdout, kill) => {
        if (stdout.includes("3") && text.includes("600")) {
          kill("SIGTERM");
        }
      });
      assert.match(ended.stdout, /^3$/m, ended.stderr);
      check(ended);
    });
    await Promise.all(all);
  });

  test(`${transport}: close runs Python's exit hooks and writes out its buffers`, async () => {
    const ended = await ran(
      program(`await bridge.callPython("things", "say_at_exit", ["goodbye"]); await bridge.close();`, { transport }),
    );
    assert.equal(ended.status, 0, ended.stderr);
    assert.match(ended.stdout, /partial line; goodbye/);
  });

  test(`${transport}: what Python prints into a pipe waits for a slow reader`, () => {
    const text = program(
      `console.log("hello"); await bridge.callPython("things", "print_lines", [5000]); await bridge.close();`,
      { transport },
    );
    const piped = '"$0" --input-type=module -e "$1" | { sleep 0.2; wc -l; }';
    assert.equal(execFileSync("sh", ["-c", piped, process.execPath, text], { encoding: "utf8" }).trim(), "5001");
  });

  test(`${transport}: a Python that closed its stdout ends as any other`, async () => {
    const text = `await bridge.callPython("things", "close_stdout"); await bridge.close({ timeout: 30_000 }); console.log("closed");`;
    const ended = await ran(program(text, { transport }));
    assert.deepEqual([ended.status, ended.stdout, ended.stderr], [0, "closed\n", ""]);
  });

  test(`${transport}: Python's own processes work`, async (t) => {
    assert.equal(await opened(t, { transport }).callPython("things", "spawned"), 5);
  });
}

for (const transport of TRANSPORTS) {
  test(`${transport}: files that bear names of Python's own modules do not keep a bridge from starting`, (t) => {
    const cwd = folder(t);
    for (const name of ["json", "importlib", "sysconfig", "socket", "asyncio", "os"]) {
      writeFileSync(path.join(cwd, `${name}.py`), "raise SystemExit('not this one')");
    }
    const text = program(`console.log(await bridge.callPython("things", "add", [1, 2])); await bridge.close();`, {
      transport,
    });
    const told = execFileSync(process.execPath, ["--input-type=module", "-e", text], { cwd, encoding: "utf8" });
    assert.equal(told, "3\n");
  });
}

test("what Python and its children print is there without close", async () => {
  const ended = await ran(
    program(
      `await bridge.callPython("things", "echoed", ["from a child"]); await bridge.callPython("builtins", "print", ["from Python"]);`,
    ),
  );
  assert.equal(ended.stdout, "from a child\nfrom Python\n", ended.stderr);
});

for (const transport of TRANSPORTS) {
  test(`${transport}: thousands of calls with errors, timeouts and aborts leave nothing behind`, async () => {
    const python = OPTIONS.pythonPath === undefined ? {} : { python: OPTIONS.pythonPath };
    const soak = fileURLToPath(new URL("../../dist-bench/soak.js", import.meta.url));
    const { stdout } = await promisify(execFile)(process.execPath, [
      soak,
      JSON.stringify({ calls: 4000, transport, ...python }),
    ]);
    const told = JSON.parse(stdout);
    assert.deepEqual([told.wrong, told.left], [0, { pending: 0, abandoned: 0, restarts: 0, lent: 0 }]);
    assert.deepEqual([told.failed, told.timedOut, told.cancelled], [400, 200, 200]);
  });
}

test("a Python process that dies fails its calls, and the next call has another", async (t) => {
  const bridge = opened(t, { transport: "process" });
  const before = (await bridge.callPython("os", "getpid")) as number;
  const waiting = bridge.callPython("things", "sleep", [60]);
  const died = bridge.callPython("things", "die");
  for (const call of [waiting, died]) {
    await assert.rejects(call, (error) => error instanceof BridgeCrashed && /signal SIGSEGV/.test(error.message));
  }
  const after = (await bridge.callPython("os", "getpid")) as number;
  assert.notEqual(before, after);
  assert.equal(bridge.getMetrics().restarts, 1);
  assert.equal(bridge.getInfo().python.pid, after);
});

test("close waits for the exit hooks of a Python process, and kills one that does not end", async (t) => {
  const bridge = opened(t, { transport: "process" });
  const file = path.join(folder(t), "hook");
  await bridge.callPython("things", "write_at_exit", [file]);
  await bridge.close();
  assert.equal(readFileSync(file, "utf8"), "written");

  const stuck = opened(t, { transport: "process" });
  const pid = (await stuck.callPython("os", "getpid")) as number;
  await assert.rejects(stuck.callPython("things", "forever", [], { timeout: 1 }), BridgeTimeout);
  await stuck.close({ timeout: 100 });
  assert.throws(() => process.kill(pid, 0), { code: "ESRCH" });
});

test("a Python that never becomes ready is told, and not started for ever", async (t) => {
  const bridge = opened(t, { transport: "process", pythonPath: pretender(t, {}) });
  for (let i = 0; i < 3; i++) {
    await assert.rejects(
      bridge.callPython("x", "y"),
      (error) => error instanceof BridgeCrashed && /before it was ready/.test(error.message),
    );
  }
  await assert.rejects(bridge.callPython("x", "y"), /ended 3 times before it was ready/);
});

test("two bridges share the interpreter of the process, and a third with another one gets a process", async (t) => {
  const warnings: Error[] = [];
  const listen = (warning: Error) => warnings.push(warning);
  process.on("warning", listen);
  t.after(() => process.off("warning", listen));
  const [one, two] = [opened(t), opened(t)];
  await one.callPython("things", "keep", [1]);
  assert.equal(await two.callPython("things", "keep", [2]), 2);
  await one.close();
  assert.equal(await two.callPython("things", "nothing"), "nothing");
  const other = pretender(t, {
    folders: [path.dirname(two.getInfo().python.library as string)],
    names: [path.basename(two.getInfo().python.library as string)],
  });
  const third = opened(t, { pythonPath: other });
  assert.equal(third.getInfo().transport, "process");
  assert.match(third.getInfo().reason as string, /runs the Python of .* already/);
  await new Promise(setImmediate);
  assert.match(String(warnings[0]), /Python runs as a process of its own/);
  assert.throws(() => new PolyglotBridge({ pythonPath: other, transport: "in-process" }), BridgeStartError);
});

test("where there is no shared library, the bridge says what to install and uses a process", (t) => {
  const lib = folder(t);
  const without = opened(t, {
    pythonPath: pretender(t, { folders: [lib], names: ["libpython3.11.a", "libpython3.11.so.1.0"] }),
  });
  assert.match(without.getInfo().reason as string, /no shared library \(install libpython3\.11, or .*--enable-shared/);
  // conda: linked statically, the library beside; Debian: in the folder of the architecture.
  mkdirSync(path.join(lib, "x86_64-linux-gnu"));
  const there = path.join(lib, "x86_64-linux-gnu", "libpython3.11.so.1.0");
  writeFileSync(there, "");
  const debian = pretender(t, { folders: [lib, path.dirname(there)], names: ["libpython3.11.a"] });
  assert.equal(opened(t, { pythonPath: debian, transport: "process" }).getInfo().python.library, there);
});

test("a Python that cannot be used is refused with the remedy", (t) => {
  const refused = (pythonPath: string, told: RegExp) =>
    assert.throws(
      () => new PolyglotBridge({ pythonPath }),
      (error) => error instanceof BridgeStartError && told.test(error.message),
    );
  refused("/no/such/python", /no Python could be run as \/no\/such\/python .*pythonPath/);
  refused(pretender(t, { implementation: "pypy" }), /is pypy; the bridge needs CPython/);
  refused(pretender(t, { version: "2.7.18" }), /is Python 2\.7\.18; the bridge needs 3\.9 or newer/);
  refused(pretender(t, { msgspec: false, own: true, pip: true }), /python -m pip install msgspec$/);
  refused(pretender(t, { msgspec: false, own: true, pip: false }), /uv pip install --python \S+ msgspec$/);
  refused(
    pretender(t, { msgspec: false, own: false, pip: true }),
    /python -m venv \.venv && \.venv\/bin\/python -m pip/,
  );
  refused(folder(t), /is no virtual environment: it has no bin\/python$/);
  // What was asked of it is nobody's business.
  refused("/bin/false", /^no Python could be run as \/bin\/false \(it ended with code 1\); name one: [^\n]*$/);
  refused(process.execPath, /^no Python could be run as [^\n]*$/);
});

test("in a worker thread Python is a process", async () => {
  const text = `
import { parentPort } from "node:worker_threads";
${program("")}
parentPort.postMessage([bridge.getInfo().transport, bridge.getInfo().reason, await bridge.callPython("things", "add", [1, 2])]);
await bridge.close();`;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(text)}`));
  const [transport, reason, sum] = await new Promise<unknown[]>((resolve, reject) => {
    worker.on("message", resolve);
    worker.on("error", reject);
  });
  assert.deepEqual([transport, sum], ["process", 3]);
  assert.match(reason as string, /worker thread/);
  await worker.terminate();
});

test("a virtual environment's folder names its interpreter", (t) => {
  const { python } = opened(t).getInfo();
  assert.equal(opened(t, { pythonPath: python.prefix }).getInfo().python.executable, python.executable);
  const inside = path.join(python.prefix, "bin");
  assert.equal(opened(t, { pythonPath: inside }).getInfo().python.executable, python.executable);
  assert.equal(opened(t, { ...OPTIONS, transport: "process" }).getInfo().reason, undefined);
});
