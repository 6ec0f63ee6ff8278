/** `PolyglotBridge`: Python functions called from Node, in this process or in one of its own. */

import { existsSync } from "node:fs";
import path from "node:path";
import { performance } from "node:perf_hooks";
import { type BridgeCallOptions, Channel } from "./channel.js";
import { type Child, startChild } from "./child.js";
import { type EngineOptions, type Memory, startEmbedded, whyNotEmbedded } from "./embedded.js";
import { BridgeArgumentError, BridgeClosed, BridgeCrashed, BridgeStartError } from "./errors.js";
import { type BridgeMetrics, Metrics } from "./metrics.js";
import { findPython, type Python } from "./python.js";
import type { Hello } from "./wire.js";

export type Transport = "in-process" | "process";

export interface BridgeOptions {
  /** Threads for functions that are neither coroutines nor declared fast. */
  poolSize?: number;
  /** The interpreter, or a virtual environment's folder. */
  pythonPath?: string;
  /** Milliseconds that a call may take if it does not say itself; 0 is for ever, as is Infinity. */
  timeout?: number;
  /** Tell on stderr what is called and how long it took. */
  debug?: boolean;
  /** "in-process" throws where that cannot be; left out, the bridge falls back to "process" and says why. */
  transport?: Transport;
  /** Folders in which Python looks for modules first; by default the current one and the program's own. */
  modulePath?: string | readonly string[];
  /** Functions ("module.function") that take microseconds: they run where calls are read, without a thread's hand-over. */
  fast?: readonly string[];
  /** Calls that may wait at once, 10,000; more are refused with `BridgeOverloaded`. */
  maxPending?: number;
  /** Bytes of arguments beyond which calls are refused while others wait, 1 GiB. */
  maxPendingBytes?: number;
  /** Stay awake for a tenth of a millisecond where answers come faster than that, true: half their latency, for some CPU time. */
  busyPoll?: boolean;
}

export interface BridgeInfo {
  transport: Transport;
  /** Why it is not "in-process", where nobody asked for "process". */
  reason: string | undefined;
  python: Python & { pid: number | undefined };
  poolSize: number;
  modulePath: readonly string[];
  timeout: number;
  maxPending: number;
  /** Arrays that Python still has views of, and that are therefore kept. */
  lent: number;
}

const CLOSE_TIMEOUT_MS = 5000;
/** Almost 25 days; Node runs a timer of more milliseconds at once. */
const LONGEST_TIMER = 2 ** 31 - 1;
const STARTS_THAT_MAY_FAIL = 3;

export class PolyglotBridge {
  private readonly options: Required<
    Pick<BridgeOptions, "poolSize" | "timeout" | "debug" | "maxPending" | "maxPendingBytes" | "busyPoll">
  >;
  private readonly engine: EngineOptions;
  private readonly python: Python;
  private readonly transport: Transport;
  private readonly reason: string | undefined;
  private readonly metrics = new Metrics();
  private channel: Channel | undefined;
  private child: Child | undefined;
  private memory: Memory | undefined;
  private pid: number | undefined;
  private startsFailed = 0;
  private closed: Promise<void> | undefined;

  /** Finds Python and starts it. Throws BridgeStartError, which tells what to do. */
  constructor(options: BridgeOptions = {}) {
    const {
      poolSize = 4,
      timeout = 30_000,
      debug = false,
      maxPending = 10_000,
      maxPendingBytes = 2 ** 30,
      busyPoll = true,
      fast = [],
      pythonPath,
      transport,
      modulePath: folders,
      ...unknown
    } = options;
    refused(unknown, transport, fast, pythonPath);
    checked("poolSize", poolSize, 1);
    checked("maxPending", maxPending, 1);
    checked("maxPendingBytes", maxPendingBytes, 1);
    checkedTime(timeout);
    this.options = { poolSize, timeout, debug, maxPending, maxPendingBytes, busyPoll };
    this.engine = { poolSize, fast, modulePath: modulePath(folders) };
    this.python = findPython(pythonPath);
    this.reason = transport === "process" ? undefined : whyNotEmbedded(this.python);
    if (this.reason !== undefined && transport === "in-process") {
      throw new BridgeStartError(`Python cannot run in this process: ${this.reason}`);
    }
    this.transport = transport === "process" || this.reason !== undefined ? "process" : "in-process";
    if (this.reason !== undefined) {
      process.emitWarning(`Python runs as a process of its own: ${this.reason}`, { code: "EVERLOOP_BRIDGE" });
    }
    this.channel = this.open();
  }

  /**
   * Call `fn` of `module` (an importable name, or the path of a `.py` file). An object is given as keyword arguments where
   * the function takes these names, otherwise as its one parameter; an array as positional arguments. Rejects with
   * PythonError, BridgeTimeout, BridgeOverloaded, BridgeArgumentError, BridgeCrashed, BridgeClosed or the signal's reason.
   */
  callPython<T = unknown>(module: string, fn: string, args?: unknown, options: BridgeCallOptions = {}): Promise<T> {
    let answer: Promise<unknown>;
    try {
      const timeout = checkedTime(options.timeout ?? this.options.timeout);
      named(module, fn);
      answer = this.opened().call(module, fn, args, options.signal ? { timeout, signal: options.signal } : { timeout });
    } catch (error) {
      answer = Promise.reject(error);
    }
    return (this.options.debug ? this.traced(`${module}.${fn}`, answer) : answer) as Promise<T>;
  }

  /**
   * The same, for a program that cannot wait: the whole thread sleeps until the answer is there. Throws what `callPython`
   * rejects with.
   */
  callPythonSync<T = unknown>(module: string, fn: string, args?: unknown, options: { timeout?: number } = {}): T {
    named(module, fn);
    return this.opened().callSync(module, fn, args, checkedTime(options.timeout ?? this.options.timeout)) as T;
  }

  /** Import modules now, and call the `warmup` of those that have one; resolves to the milliseconds that each took. */
  async warmup(modules: readonly string[], options: BridgeCallOptions = {}): Promise<Record<string, number>> {
    const timeout = checkedTime(options.timeout ?? this.options.timeout);
    const answer = await this.opened().warmup(modules, { ...options, timeout });
    return answer as Record<string, number>;
  }

  getMetrics(): BridgeMetrics {
    return this.metrics.tell(this.channel?.pendingNow ?? 0, this.channel?.abandonedNow ?? 0);
  }

  resetMetrics(): void {
    this.metrics.reset();
  }

  getInfo(): BridgeInfo {
    return {
      transport: this.transport,
      reason: this.reason,
      python: { ...this.python, pid: this.pid },
      poolSize: this.options.poolSize,
      modulePath: this.engine.modulePath,
      timeout: this.options.timeout,
      maxPending: this.options.maxPending,
      lent: this.memory?.lentNow ?? 0,
    };
  }

  /**
   * Refuse new calls, wait for those under way (at most `timeout` milliseconds), then have Python run its exit hooks and
   * write out what it buffers, for as long again: a Python process that has not ended by then is killed. Closing twice is
   * closing once.
   */
  close({ timeout = CLOSE_TIMEOUT_MS }: { timeout?: number } = {}): Promise<void> {
    this.closed ??= this.shutDown(Math.min(timeout, LONGEST_TIMER));
    return this.closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  private async shutDown(timeout: number): Promise<void> {
    const channel = this.channel;
    await channel?.drained(timeout);
    const began = performance.now();
    await channel?.close(timeout, new BridgeClosed());
    await this.child?.gone(Math.max(0, timeout - (performance.now() - began)));
  }

  private opened(): Channel {
    if (this.closed !== undefined) {
      throw new BridgeClosed();
    }
    if (this.channel === undefined) {
      if (this.startsFailed >= STARTS_THAT_MAY_FAIL) {
        throw new BridgeCrashed(`the Python process ended ${this.startsFailed} times before it was ready (see stderr)`);
      }
      this.metrics.restarts += 1;
      this.channel = this.open();
    }
    return this.channel;
  }

  private open(): Channel {
    if (this.transport === "in-process") {
      const { link, hello, memory } = startEmbedded(this.python, this.engine);
      this.memory = memory;
      this.greeted(hello);
      const channel = new Channel(link, this.metrics, this.options, {
        memory,
        broken: () => {
          channel.end(new BridgeCrashed("Python closed its end of the bridge"));
          this.drop(channel);
        },
      });
      return channel;
    }
    const child = startChild(this.python, this.engine, (why) => {
      const when = channel.ready ? "while calls were under way" : "before it was ready (see stderr)";
      channel.end(new BridgeCrashed(`the Python process ended ${when}: ${why}`));
      this.startsFailed = channel.ready ? 0 : this.startsFailed + 1;
      this.drop(channel);
      this.say(`process ${child.pid} ended: ${why}`);
    });
    this.child = child;
    const channel = new Channel(child.link, this.metrics, this.options, {
      greeted: (hello) => this.greeted(hello),
      pid: child.pid,
      broken: child.kill,
      syncBroken: () => {
        child.kill();
        this.drop(channel); // Its end is seen later: this thread may not turn to its events before the next call.
      },
    });
    return channel;
  }

  /** The next call has another. */
  private drop(channel: Channel): void {
    if (this.channel === channel) {
      this.channel = undefined;
      this.child = undefined;
    }
  }

  private greeted(hello: Hello): void {
    this.pid = hello.pid;
    this.say(`Python ${hello.version} of ${hello.prefix}, ${this.transport}, pid ${hello.pid}`);
  }

  private async traced(name: string, answer: Promise<unknown>): Promise<unknown> {
    const began = performance.now();
    try {
      const value = await answer;
      this.say(`${name} answered in ${(performance.now() - began).toFixed(3)} ms`);
      return value;
    } catch (error) {
      this.say(`${name} failed in ${(performance.now() - began).toFixed(3)} ms: ${error}`);
      throw error;
    }
  }

  private say(text: string): void {
    if (this.options.debug) {
      process.stderr.write(`everloop bridge: ${text}\n`);
    }
  }
}

function modulePath(given: string | readonly string[] | undefined): string[] {
  const program = process.argv[1];
  const folders = given ?? [".", ...(program === undefined ? [] : [path.dirname(program)])];
  const all = [...new Set((typeof folders === "string" ? [folders] : folders).map((folder) => path.resolve(folder)))];
  const absent = given === undefined ? undefined : all.find((folder) => !existsSync(folder));
  if (absent !== undefined) {
    throw new RangeError(`modulePath: there is no folder ${absent}`);
  }
  return all;
}

function named(module: unknown, fn: unknown): void {
  if (typeof module !== "string" || typeof fn !== "string") {
    const [what, given] = typeof module === "string" ? ["fn", fn] : ["module", module];
    throw new BridgeArgumentError(`${what}`, `is a name, not of the type ${typeof given}`);
  }
}

/** What programs without types may say. */
function refused(unknown: object, transport: unknown, fast: readonly string[], pythonPath: unknown): void {
  const [name] = Object.keys(unknown);
  if (name !== undefined) {
    throw new RangeError(`a bridge has no option ${name}`);
  }
  if (transport !== undefined && transport !== "in-process" && transport !== "process") {
    throw new RangeError(`transport is "in-process" or "process", not ${JSON.stringify(transport)}`);
  }
  if (pythonPath !== undefined && typeof pythonPath !== "string") {
    throw new RangeError(`pythonPath is a path, not ${JSON.stringify(pythonPath)}`);
  }
  const undotted = fast.find((each) => !/.\../.test(each));
  if (undotted !== undefined) {
    throw new RangeError(`fast names functions as "module.function", not ${JSON.stringify(undotted)}`);
  }
}

/** Milliseconds that Node's timers can wait; 0 for what they cannot, which is no end. Throws RangeError for what is no time. */
function checkedTime(timeout: number): number {
  if (!(timeout >= 0)) {
    throw new RangeError(`timeout is a number of at least 0, not ${timeout}`);
  }
  return timeout > LONGEST_TIMER ? 0 : timeout;
}

function checked(name: string, value: number, least: number): number {
  if (!Number.isInteger(value) || value < least) {
    throw new RangeError(`${name} is a whole number of at least ${least}, not ${value}`);
  }
  return value;
}
