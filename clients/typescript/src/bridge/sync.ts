/**
 * The connection of `callPythonSync`: this thread sleeps until a frame is there. A worker thread has a socket of its own to
 * the same Python and passes whole frames back and forth; what is in them is written and read by this thread.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { performance } from "node:perf_hooks";
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import { BridgeCrashed } from "./errors.js";

/** What the worker is started with. */
export interface SyncWorkerData {
  path: string;
  /** The process that Python is, where it is one of its own. */
  pid: number | undefined;
  port: MessagePort;
  /** Counted up, and its waiter woken, with each message. */
  signal: SharedArrayBuffer;
}

/** How long the name of a Unix socket may be: 103 bytes on macOS, 107 on Linux. */
const LONGEST_NAME = 103;

export class SyncChannel {
  private readonly folder = mkdtempSync(placeOfFolder());
  private readonly signal = new Int32Array(new SharedArrayBuffer(4));
  private readonly port: MessagePort;
  private readonly worker: Worker;
  private tidy = false;
  /** Why nothing comes any more. */
  private ended: string | undefined;

  /**
   * `listen(path)` has Python wait for the worker at a socket that only this user can reach; `stray` gets the frames that come
   * while nobody waits in `receive`.
   */
  constructor(pid: number | undefined, listen: (path: string) => void, stray: (frame: Buffer) => void) {
    const socket = path.join(this.folder, "socket");
    listen(socket);
    const { port1, port2 } = new MessageChannel();
    this.port = port1;
    const workerData: SyncWorkerData = {
      path: socket,
      pid,
      port: port2,
      signal: this.signal.buffer as SharedArrayBuffer,
    };
    this.worker = new Worker(new URL("./sync_worker.js", import.meta.url), {
      workerData,
      transferList: [port2],
      execArgv: [], // Not the program's own: `--input-type` and loaders are not for this file.
    });
    port1.on("message", (message: Uint8Array | string) => {
      if (typeof message === "string") {
        this.ended = message;
      } else {
        stray(bufferOf(message));
      }
    });
    this.worker.unref();
    port1.unref();
  }

  send(frame: Buffer): void {
    this.port.postMessage(frame);
  }

  /** The first frame from Python that is `wanted`, which is asked of each; undefined if `timeout` passed first. */
  receive(timeout: number, wanted: (frame: Buffer) => boolean): Buffer | undefined {
    const deadline = timeout > 0 ? performance.now() + timeout : Number.POSITIVE_INFINITY;
    for (;;) {
      const seen = Atomics.load(this.signal, 0);
      for (let got = receiveMessageOnPort(this.port); got !== undefined; got = receiveMessageOnPort(this.port)) {
        const message = got.message as Uint8Array | string;
        this.tidyUp();
        if (typeof message === "string") {
          this.ended = message;
          continue;
        }
        const frame = bufferOf(message);
        if (wanted(frame)) {
          return frame;
        }
      }
      if (this.ended !== undefined) {
        throw new BridgeCrashed(`the connection of callPythonSync ended: ${this.ended}`);
      }
      const left = deadline - performance.now();
      if (left <= 0) {
        return undefined;
      }
      Atomics.wait(this.signal, 0, seen, left);
    }
  }

  async close(): Promise<void> {
    this.port.close();
    await this.worker.terminate();
    this.tidyUp();
  }

  /** The connection is there, and nobody needs its socket's name again. */
  private tidyUp(): void {
    if (!this.tidy) {
      this.tidy = true;
      rmSync(this.folder, { recursive: true, force: true });
    }
  }
}

function placeOfFolder(): string {
  const name = "everloop-bridge-";
  const place = path.join(tmpdir(), name);
  return Buffer.byteLength(place) + "XXXXXX/socket".length <= LONGEST_NAME ? place : path.join("/tmp", name);
}

function bufferOf(message: Uint8Array): Buffer {
  return Buffer.from(message.buffer, message.byteOffset, message.byteLength);
}
