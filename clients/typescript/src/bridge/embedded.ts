/**
 * CPython inside this process, booted through koffi. After it has started, Node's thread never takes Python's lock again:
 * everything goes through one end of a socket pair, whose other end a Python thread reads.
 *
 * A process has one interpreter. What was booted is noted on `process`, where a second copy of this package finds it.
 */

import { closeSync, readSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { Socket } from "node:net";
import { types } from "node:util";
import { isMainThread } from "node:worker_threads";
import { Decoder } from "./decode.js";
import { BridgeStartError } from "./errors.js";
import { PYTHON_HALF, type Python } from "./python.js";
import { HEAD_SIZE, type Hello, type Link, REUSED_BUFFER, type SharedMemory } from "./wire.js";

const BOOTED = Symbol.for("everloop.bridge.interpreter");
const AF_UNIX = 1;
const SOCK_STREAM = 1;

/** What the interpreter is told of a new bridge. */
export interface EngineOptions {
  poolSize: number;
  fast: readonly string[];
  modulePath: readonly string[];
}

interface Booted {
  library: string;
  prefix: string;
}

/** The functions of C that are needed, typed. */
interface Functions {
  address(view: ArrayBufferView): bigint;
  initialized(): number;
  decodeLocale(text: string, size: null): unknown;
  setProgramName: ((name: unknown) => void) | undefined;
  initialize(signals: number): void;
  saveThread(): unknown;
  ensure(): number;
  release(state: number): void;
  run(code: string): number;
  socketpair(domain: number, type: number, protocol: number, out: number[]): number;
  memcpy(to: Uint8Array, from: number | bigint, size: number): unknown;
}

let functions: { library: string; they: Functions } | undefined;

/** Why `python` cannot run inside this process; undefined if it can. */
export function whyNotEmbedded(python: Python): string | undefined {
  if (process.platform === "win32") {
    return "on Windows Python runs in no process of Node's";
  }
  if (!isMainThread) {
    return "this is a worker thread, and Python can only be booted on Node's main thread";
  }
  if (python.library === undefined) {
    return (
      `${python.executable} has no shared library (install libpython${python.version.split(".", 2).join(".")}, or build Python ` +
      "with --enable-shared: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install …)"
    );
  }
  const booted = bootedHere();
  if (booted !== undefined && (booted.prefix !== python.prefix || booted.library !== python.library)) {
    return `this process runs the Python of ${booted.prefix} already, and a process can have only one`;
  }
  return undefined;
}

/** Boot Python if this process has none yet, and start one more bridge in it. Throws BridgeStartError. */
export function startEmbedded(python: Python, options: EngineOptions): { link: Link; hello: Hello; memory: Memory } {
  if (python.library === undefined) {
    throw new BridgeStartError(`${python.executable} has no shared library`);
  }
  const c = load(python.library);
  boot(c, python, python.library);
  const ends = [0, 0];
  if (c.socketpair(AF_UNIX, SOCK_STREAM, 0, ends) !== 0) {
    throw new BridgeStartError("the system gave no socket pair (too many open files?)");
  }
  const [ours, theirs] = ends as [number, number];
  const state = c.ensure();
  let status: number;
  try {
    status = c.run(startCode(theirs, options));
  } finally {
    c.release(state);
  }
  if (status !== 0) {
    closeSync(ours);
    closeSync(theirs);
    throw new BridgeStartError("Python could not start the bridge; its traceback is on stderr");
  }
  const hello = readHello(ours);
  if (hello.error !== undefined) {
    closeSync(ours);
    throw new BridgeStartError(`Python could not start the bridge: ${hello.error}\n${hello.traceback}`);
  }
  if (hello.prefix !== python.prefix) {
    closeSync(ours);
    throw new BridgeStartError(
      `this process runs the Python of ${hello.prefix}, not that of ${python.prefix}: use {transport: "process"}`,
    );
  }
  return { link: linkOf(ours), hello, memory: new Memory(c) };
}

/**
 * A socket without the layers of Node's streams on the way of a small call: what comes is read into one buffer, and what goes
 * is handed to the system at once.
 */
function linkOf(fd: number): Link {
  let take: (data: Buffer) => void = () => undefined;
  const buffer = Buffer.allocUnsafeSlow(REUSED_BUFFER);
  const callback = (size: number): boolean => {
    take(buffer.subarray(0, size));
    return true;
  };
  const options = { fd, readable: true, writable: true, onread: { buffer, callback } };
  const socket = new Socket(options);
  return {
    socket,
    reading: (to) => {
      take = to;
    },
    writeNow: (bytes) => {
      try {
        return writeSync(fd, bytes);
      } catch {
        return 0; // It is full, or Python has closed it: the socket's own write waits, or tells.
      }
    },
  };
}

function bootedHere(): Booted | undefined {
  return (process as { [BOOTED]?: Booted })[BOOTED];
}

function load(library: string): Functions {
  if (functions?.library === library) {
    return functions.they;
  }
  try {
    // Only here: a platform without koffi, or a worker thread, still has the other transport.
    const koffi = createRequire(import.meta.url)("koffi") as typeof import("koffi");
    // Extension modules of Python look its symbols up globally.
    const lib = koffi.load(library, { global: true });
    let setProgramName: Functions["setProgramName"];
    try {
      setProgramName = lib.func("void Py_SetProgramName(void *name)");
    } catch {
      setProgramName = undefined; // Deprecated since Python 3.11: without it a virtual environment is refused below.
    }
    const they: Functions = {
      address: koffi.address,
      initialized: lib.func("int Py_IsInitialized()"),
      decodeLocale: lib.func("void *Py_DecodeLocale(const char *text, void *size)"),
      setProgramName,
      initialize: lib.func("void Py_InitializeEx(int signals)"),
      saveThread: lib.func("void *PyEval_SaveThread()"),
      ensure: lib.func("int PyGILState_Ensure()"),
      release: lib.func("void PyGILState_Release(int state)"),
      run: lib.func("int PyRun_SimpleString(const char *code)"),
      socketpair: lib.func("int socketpair(int domain, int type, int protocol, _Out_ int *ends)"),
      memcpy: lib.func("void *memcpy(void *to, uintptr_t from, size_t size)"),
    };
    functions = { library, they };
    return they;
  } catch (error) {
    throw new BridgeStartError(`${library} could not be loaded: ${error instanceof Error ? error.message : error}`, {
      cause: error,
    });
  }
}

function boot(c: Functions, python: Python, library: string): void {
  if (c.initialized() === 0) {
    // The name by which Python finds its own files, and the virtual environment that it is of.
    c.setProgramName?.(c.decodeLocale(python.executable, null));
    c.initialize(0);
    c.saveThread();
  }
  Object.defineProperty(process, BOOTED, { value: { library, prefix: python.prefix }, configurable: true });
}

function startCode(fd: number, options: EngineOptions): string {
  const literal = (value: unknown) => JSON.stringify(JSON.stringify(value));
  return [
    "import json, sys",
    `half = json.loads(${literal(PYTHON_HALF)})`,
    "half in sys.path or sys.path.append(half)",
    "from everloop_bridge.embedded import start",
    `start(${fd}, json.loads(${literal(options)}))`,
    "del half, start, json",
  ].join("\n");
}

/** The greeting is there when the start has returned: it is read before Node's own socket takes over. */
function readHello(fd: number): Hello {
  const head = Buffer.alloc(HEAD_SIZE);
  readExactly(fd, head);
  const body = Buffer.alloc(head.readUInt32LE(0) - (HEAD_SIZE - 4));
  readExactly(fd, body);
  return new Decoder().decode(body) as Hello;
}

function readExactly(fd: number, into: Buffer): void {
  let at = 0;
  while (at < into.length) {
    const read = readSync(fd, into, at, into.length - at, null);
    if (read === 0) {
      throw new BridgeStartError("Python closed the bridge while it started");
    }
    at += read;
  }
}

/** What is lent to Python, by pins. Of no bridge: Python may look at it when the bridge that lent it is long gone. */
const lent = new Map<number, Uint8Array>();
let pins = 0;

/** Memory of both languages: what a bridge lends to Python is held until Python has let go of it. */
export class Memory implements SharedMemory {
  private readonly pins = new Set<number>();

  constructor(private readonly c: Functions) {}

  get lentNow(): number {
    return this.pins.size;
  }

  /**
   * Lends a copy that the bridge alone has: what the program does with its own array after the call, be it writing to it or
   * giving its memory to a worker, then cannot reach Python. A SharedArrayBuffer is shared both ways, as its name says.
   */
  lend(bytes: Uint8Array): { address: bigint; pin: number } {
    let kept = bytes;
    if (!types.isSharedArrayBuffer(bytes.buffer)) {
      kept = Buffer.allocUnsafeSlow(bytes.byteLength);
      kept.set(bytes);
    }
    pins += 1;
    this.pins.add(pins);
    lent.set(pins, kept);
    return { address: this.c.address(kept), pin: pins };
  }

  released(free: readonly number[]): void {
    for (const pin of free) {
      this.pins.delete(pin);
      lent.delete(pin);
    }
  }

  copy(address: number | bigint, size: number): ArrayBuffer {
    const copy = new ArrayBuffer(size);
    this.c.memcpy(new Uint8Array(copy), address, size);
    return copy;
  }
}
