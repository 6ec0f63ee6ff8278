/** The worker of `SyncChannel`: frames from the port to Python's socket, and whole frames from there to the port. */

import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { workerData } from "node:worker_threads";
import { Frames } from "./frames.js";
import type { SyncWorkerData } from "./sync.js";

const RETRY_MS = 2;
const { path, port, signal } = workerData as SyncWorkerData;
const count = new Int32Array(signal);

function tell(message: Uint8Array | string): void {
  port.postMessage(message);
  Atomics.add(count, 0, 1);
  Atomics.notify(count, 0);
}

/** Python may not be listening yet; the caller has the timeout. */
async function open(): Promise<void> {
  const waiting: Uint8Array[] = [];
  const keep = (frame: Uint8Array) => waiting.push(frame);
  port.on("message", keep);
  for (;;) {
    const socket = connect(path);
    const refused = await new Promise<string | undefined>((resolve) => {
      socket.once("connect", () => resolve(undefined));
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code));
    });
    if (refused === undefined) {
      const frames = new Frames();
      socket.on("data", (data: Buffer) =>
        frames.add(data, (_kind, _number, body, start, end) => tell(body.subarray(start, end))),
      );
      socket.on("error", () => undefined);
      socket.on("close", () => tell("Python closed it"));
      port.off("message", keep);
      port.on("message", (frame: Uint8Array) => socket.write(frame));
      for (const frame of waiting) {
        socket.write(frame);
      }
      return;
    }
    await sleep(RETRY_MS);
  }
}

await open();
