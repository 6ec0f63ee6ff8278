/**
 * Which Python a bridge uses, and whether this process can load it: the interpreter is asked itself, so that virtual
 * environments, pyenv, conda and Debian's packages all tell where their library is.
 */

import { execFileSync } from "node:child_process";
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

const ASK = `
import json, sys, sysconfig
import importlib.util as u
v = sysconfig.get_config_var
print(json.dumps({
    "executable": sys.executable, "version": ".".join(map(str, sys.version_info[:3])), "prefix": sys.prefix,
    "minor": "%d.%d" % sys.version_info[:2] + getattr(sys, "abiflags", ""), "implementation": sys.implementation.name,
    "folders": [v("LIBDIR"), v("LIBDIR") and v("MULTIARCH") and v("LIBDIR") + "/" + v("MULTIARCH"), sys.base_prefix + "/lib",
                v("LIBPL"), v("PYTHONFRAMEWORKPREFIX")],
    "names": [v("INSTSONAME"), v("LDLIBRARY")], "msgspec": u.find_spec("msgspec") is not None,
}))
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
    return path.resolve(pythonPath, "bin", "python");
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
    const why = error instanceof Error ? error.message : String(error);
    throw new BridgeStartError(
      `no Python could be run as ${command} (${why.trim()}); name one: new PolyglotBridge({pythonPath: "/path/to/python3"})`,
      { cause: error },
    );
  }
  if (told.implementation !== "cpython") {
    throw new BridgeStartError(`${command} is ${told.implementation}; the bridge needs CPython`);
  }
  if (!told.msgspec) {
    throw new BridgeStartError(
      `the bridge needs msgspec in ${told.executable}: ${told.executable} -m pip install msgspec`,
    );
  }
  return { executable: told.executable, version: told.version, prefix: told.prefix, library: libraryOf(told) };
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
