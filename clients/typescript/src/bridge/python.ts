/**
 * Which Python a bridge uses, and whether this process can load it: the interpreter is asked itself, so that virtual
 * environments, pyenv, conda and Debian's packages all tell where their library is.
 */

import { execFileSync, type SpawnSyncReturns } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { BridgeStartError } from "./errors.js";

/** The folder of the Python package that this npm package ships. */
export const PYTHON_HALF = fileURLToPath(new URL("../../python", import.meta.url));

/** One interpreter, as it describes itself. */
export interface Python {
  executable: string;
  version: string;
  prefix: string;
  /** Its shared library; undefined where it has none that exists. */
  library: string | undefined;
}

const OLDEST = [3, 9] as const;

/** Old ones read it, too, and tell their version: there is no syntax and, before the check, no module in it that 2.7 has not.
 * First on the path is the current folder, whose json.py would not be Python's. */
const ASK = `
import sys
if sys.path[:1] == [""]: del sys.path[0]
import json
told = {"executable": sys.executable, "version": ".".join(map(str, sys.version_info[:3])), "prefix": sys.prefix}
if sys.version_info[:2] >= (${OLDEST.join(", ")}):
    import os, sysconfig
    import importlib.util as u
    v = sysconfig.get_config_var
    told.update({
        "minor": "%d.%d" % sys.version_info[:2] + getattr(sys, "abiflags", ""), "implementation": sys.implementation.name,
        "folders": [v("LIBDIR"), v("LIBDIR") and v("MULTIARCH") and v("LIBDIR") + "/" + v("MULTIARCH"), sys.base_prefix + "/lib",
                    v("LIBPL"), v("PYTHONFRAMEWORKPREFIX")],
        "names": [v("INSTSONAME"), v("LDLIBRARY")], "msgspec": u.find_spec("msgspec") is not None,
        "own": sys.prefix != sys.base_prefix or os.path.isdir(sys.prefix + "/conda-meta"), "pip": u.find_spec("pip") is not None,
    })
print(json.dumps(told))
`;

interface Told {
  executable: string;
  version: string;
  prefix: string;
  minor: string;
  implementation: string;
  folders: (string | null)[];
  names: (string | null)[];
  msgspec: boolean;
  /** An environment that one may install into. */
  own: boolean;
  pip: boolean;
}

const asked = new Map<string, Python>();

/**
 * The interpreter at `pythonPath` (an executable, or a virtual environment's folder); without it the active virtual or conda
 * environment's, then that of `.venv` here, then `python3` on the PATH. Throws BridgeStartError with the remedy.
 */
export function findPython(pythonPath?: string): Python {
  const command = pythonPath === undefined ? defaultCommand() : commandOf(pythonPath);
  let python = asked.get(command);
  if (python === undefined) {
    python = describe(command);
    asked.set(command, python);
  }
  return python;
}

function defaultCommand(): string {
  const environments = [process.env.VIRTUAL_ENV, process.env.CONDA_PREFIX, path.resolve(".venv")];
  for (const folder of environments) {
    const command = folder && path.join(folder, "bin", "python");
    if (command && existsSync(command)) {
      return command;
    }
  }
  return "python3";
}

function commandOf(pythonPath: string): string {
  if (existsSync(pythonPath) && statSync(pythonPath).isDirectory()) {
    const there = ["bin/python", "python"].map((name) => path.resolve(pythonPath, name));
    const command = there.find((each) => existsSync(each) && statSync(each).isFile());
    if (command === undefined) {
      throw new BridgeStartError(`${path.resolve(pythonPath)} is no virtual environment: it has no bin/python`);
    }
    return command;
  }
  return pythonPath.includes(path.sep) ? path.resolve(pythonPath) : pythonPath;
}

function describe(command: string): Python {
  let told: Told;
  try {
    told = JSON.parse(
      execFileSync(command, ["-c", ASK], { encoding: "utf8", timeout: 30_000, stdio: ["ignore", "pipe", "pipe"] }),
    );
  } catch (error) {
    // Without the error itself, which holds the whole program.
    throw new BridgeStartError(
      `no Python could be run as ${command} (${whyNot(error)}); name one: new PolyglotBridge({pythonPath: "/path/to/python3"})`,
    );
  }
  const [major = 0, minor = 0] = told.version.split(".").map(Number);
  if (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])) {
    throw new BridgeStartError(
      `${command} is Python ${told.version}; the bridge needs ${OLDEST.join(".")} or newer: name another with pythonPath`,
    );
  }
  if (told.implementation !== "cpython") {
    throw new BridgeStartError(`${command} is ${told.implementation}; the bridge needs CPython`);
  }
  if (!told.msgspec) {
    throw new BridgeStartError(`the bridge needs msgspec in ${told.executable}: ${howToInstall(told)}`);
  }
  return { executable: told.executable, version: told.version, prefix: told.prefix, library: libraryOf(told) };
}

function whyNot(error: unknown): string {
  if (error instanceof SyntaxError) {
    return "it does not answer as Python does";
  }
  const { code, status, signal, stderr } = error as NodeJS.ErrnoException & SpawnSyncReturns<string>;
  if (code !== undefined) {
    return code === "ENOENT" ? "there is no such program" : code;
  }
  const last = stderr.trim().split("\n").at(-1)?.slice(0, 200);
  return `it ended with ${signal ?? `code ${status}`}${last ? `: ${last}` : ""}`;
}

/** A system's own Python refuses what is installed into it (PEP 668), and should. */
function howToInstall({ executable, own, pip }: Told): string {
  if (!own) {
    return `make an environment, which is found where you start your program: ${executable} -m venv .venv && .venv/bin/python -m pip install msgspec`;
  }
  return pip ? `${executable} -m pip install msgspec` : `uv pip install --python ${executable} msgspec`;
}

/**
 * The first shared library that exists. Being there is what counts: conda's interpreters are linked statically and ship the
 * library beside, Debian's say that they are shared though the package `libpython3.x` may not be installed.
 */
function libraryOf(told: Told): string | undefined {
  const extension = process.platform === "darwin" ? "dylib" : "so";
  const names = [...told.names, `libpython${told.minor}.${extension}.1.0`, `libpython${told.minor}.${extension}`];
  for (const folder of told.folders) {
    for (const name of names) {
      if (folder && name && !name.endsWith(".a") && existsSync(path.join(folder, name))) {
        return path.join(folder, name);
      }
    }
  }
  return undefined;
}
