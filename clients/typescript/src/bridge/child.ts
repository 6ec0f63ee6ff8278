/** Python as a child process, on a socket that it inherits: no file, no port, and its end is seen at once on both sides. */

import { spawn } from "node:child_process";
import type { Socket } from "node:net";
import type { EngineOptions } from "./embedded.js";
import { PYTHON_HALF, type Python } from "./python.js";
import type { Link } from "./wire.js";

/** A started child: `ended` is called once, with why, when the process is gone. */
export interface Child {
  link: Link;
  pid: number | undefined;
  kill(): void;
  /** Resolves when the process is gone; one that is still there after `milliseconds` is killed. */
  gone(milliseconds: number): Promise<void>;
}

export function startChild(python: Python, options: EngineOptions, ended: (why: string) => void): Child {
  // Without the current folder, which comes first with -c: the folders of `modulePath` go there when the bridge has been loaded.
  const code = `import sys; sys.path[:1] == [""] and sys.path.pop(0); sys.path.append(${JSON.stringify(PYTHON_HALF)}); from everloop_bridge.__main__ import main; main()`;
  const child = spawn(python.executable, ["-c", code, JSON.stringify(options)], {
    stdio: ["ignore", "inherit", "inherit", "pipe"],
  });
  const socket = child.stdio[3] as Socket;
  let over = false;
  const end = (why: string) => {
    if (!over) {
      over = true;
      ended(why);
    }
  };
  child.on("error", (error) => end(`it could not be started: ${error.message}`));
  child.on("exit", (status, signal) => end(signal === null ? `exit code ${status}` : `signal ${signal}`));
  child.unref();
  const link: Link = { socket, reading: (to) => void socket.on("data", to) };
  const kill = () => void child.kill("SIGKILL");
  const gone = (milliseconds: number) =>
    new Promise<void>((resolve) => {
      if (over) {
        resolve();
        return;
      }
      const timer = setTimeout(kill, milliseconds);
      const done = () => {
        clearTimeout(timer);
        resolve();
      };
      child.once("exit", done);
      child.once("error", done);
      child.ref();
    });
  return { link, pid: child.pid, kill, gone };
}
