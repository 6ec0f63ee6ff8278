/** The worker of `SyncChannel`: frames from the port to Python's socket, and whole frames from there to the port. */

import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { workerData } from "node:worker_threads";
import { Frames } from "./frames.js";
import type { SyncWorkerData } from "./sync.js";

const RETRY_MS = 2;
const NOT_YET = ["ENOENT", "ECONNREFUSED"];
const { path, pid, port, signal } = workerData as SyncWorkerData;
const count = new Int32Array(signal);

function tell(message: Uint8Array | string): void {
  port.postMessage(message);
  Atomics.add(count, 0, 1);
  Atomics.notify(count, 0);
}

/** Why Python will never be there; undefined if it still may. Where there is no /proc, a child that nobody has waited for is there. */
function hopeless(refused: string): string | undefined {
  if (!NOT_YET.includes(refused)) {
    return `its socket cannot be reached (${refused})`;
  }
  if (pid === undefined) {
    return undefined;
  }
  try {
    process.kill(pid, 0);
    return /\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "latin1")) ? "the Python process ended" : undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH" ? "the Python process ended" : undefined;
  }
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
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
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
    const why = hopeless(refused);
    if (why !== undefined) {
      tell(why);
      return;
    }
    await sleep(RETRY_MS);
  }
}

await open();
