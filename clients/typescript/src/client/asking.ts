/** How a model is asked, whatever it is asked. */

import type { CallOptions } from "./transport.js";
import type { VersionRef } from "./types.js";

export interface PredictOptions extends CallOptions {
  /** A user or a session, who meets the same version each time while several are live. */
  unit?: string | undefined;
  /** Milliseconds within which the answer is of use: told to the server, too, which does not run what comes too late. */
  deadline?: number | undefined;
  /** For tests: the version that shall answer, by number, name or alias; takes `overrideKey`. */
  version?: VersionRef | undefined;
  /** One of the server's `override_keys`. */
  overrideKey?: string | undefined;
}

/** The part of a call that says so. Asking twice is as good as asking once. */
export function asking({ unit, deadline, version, overrideKey, timeout, retries, signal }: PredictOptions) {
  const header = {
    "Everloop-Unit": unit === undefined ? undefined : encoded(unit),
    "Everloop-Timeout": deadline === undefined ? undefined : deadline / 1000,
    "Everloop-Version": version === undefined ? undefined : String(version),
    "Everloop-Key": overrideKey,
  };
  return { header, signal, timeout: timeout ?? deadline, retries, harmless: true };
}

/** A header carries bytes; the server reads them as UTF-8. */
function encoded(text: string): string {
  return Buffer.from(text, "utf8").toString("latin1");
}
