/** Why a call did not give an answer: Python raised, or the bridge refused, lost or gave up the call. */

/** What every error of the bridge itself is; `code` is for programs, the message for people. */
export class BridgeError extends Error {
  override name = "BridgeError";

  constructor(
    readonly code: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** An argument has no counterpart in Python; `path` says which (`args.rows[3].when`). Nothing was sent. */
export class BridgeArgumentError extends BridgeError {
  override name = "BridgeArgumentError";

  constructor(
    readonly path: string,
    why: string,
  ) {
    super("ARGUMENT", `${path} ${why}`);
  }
}

/** The call took longer than its timeout. A coroutine was cancelled; a thread runs on and its answer is dropped. */
export class BridgeTimeout extends BridgeError {
  override name = "BridgeTimeout";

  constructor(call: string, milliseconds: number) {
    super("TIMEOUT", `${call} gave no answer within ${milliseconds} ms`);
  }
}

/** As much waits for Python as may: ask again later, or raise `maxPending` or `maxPendingBytes`. */
export class BridgeOverloaded extends BridgeError {
  override name = "BridgeOverloaded";

  constructor(message: string) {
    super("OVERLOADED", message);
  }
}

/** The bridge was closed before the call was made or answered. */
export class BridgeClosed extends BridgeError {
  override name = "BridgeClosed";

  constructor(message = "the bridge is closed") {
    super("CLOSED", message);
  }
}

/** The Python process ended, or its end of the bridge broke, while it had calls; the next call starts another. */
export class BridgeCrashed extends BridgeError {
  override name = "BridgeCrashed";

  constructor(message: string) {
    super("CRASHED", message);
  }
}

/** Python could not be found or started; the message tells what to do. */
export class BridgeStartError extends BridgeError {
  override name = "BridgeStartError";

  constructor(message: string, options?: ErrorOptions) {
    super("START", message, options);
  }
}

/** An exception as Python tells it. */
export interface RaisedException {
  type: string;
  message: string;
  traceback: string;
  module: string;
  function: string;
}

/** Python raised. `type` is the exception's class ("ValueError", "json.decoder.JSONDecodeError"). */
export class PythonError extends Error {
  override name = "PythonError";
  readonly type: string;
  readonly traceback: string;
  /** The module and function that were called. */
  readonly module: string;
  readonly function: string;

  constructor(raised: RaisedException) {
    super(raised.message ? `${raised.type}: ${raised.message}` : raised.type);
    this.type = raised.type;
    this.traceback = raised.traceback;
    this.module = raised.module;
    this.function = raised.function;
  }
}
