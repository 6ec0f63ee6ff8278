/**
 * Requests over kept connections, each within its time, repeated where that is safe.
 *
 * Over undici's pool rather than `fetch`, which costs several times as much. A call's time counts all its attempts and the waits between them.
 */

import { type Dispatcher, Pool } from "undici";
import { EverloopError, foreign, refusal, short, unreachable } from "./errors.js";
import { type Backoff, type Clock, pause, sleep, worthRepeating } from "./retries.js";

export interface CallOptions {
  /** Ends the call; it rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Milliseconds for the whole call, repeats included; 0 or Infinity for no end. The client's own where it is left out. */
  timeout?: number | undefined;
  /** How often the call is sent again at most, where that is safe. The client's own where it is left out. */
  retries?: number | undefined;
}

export interface Outgoing extends CallOptions {
  method: Dispatcher.HttpMethod;
  path: string;
  headers: Record<string, string>;
  body: string | Uint8Array | undefined;
  /** Whether sending it twice is as good as once. */
  harmless: boolean;
}

/** An answer of a status below 300. */
export class Incoming {
  constructor(
    private readonly status: number,
    private readonly type: string,
    private readonly bytes: Uint8Array,
  ) {}

  /** JSON's object, or bytes, or text, as `type` says; undefined of a 204. Throws EverloopError for an answer of another type. */
  content(type: string): unknown {
    if (this.status === 204) {
      return undefined;
    }
    const [given = ""] = this.type.split(";");
    const text = () => new TextDecoder().decode(this.bytes);
    if (given.trim().toLowerCase() !== type) {
      throw foreign(`${type} was expected, ${given || "nothing"} came: ${short(text())}`);
    }
    if (type === OCTETS) {
      return this.bytes;
    }
    return type === JSON_TYPE ? object(text()) : text();
  }
}

export const JSON_TYPE = "application/json";
export const OCTETS = "application/octet-stream";

function object(text: string): object {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw foreign(`it is no JSON: ${short(text)}`, { cause });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw foreign(`it is no object: ${short(text)}`);
  }
  return value;
}

export interface TransportOptions {
  url: URL;
  apiKey: string | undefined;
  timeout: number;
  retries: number;
  backoff: Backoff;
  connections: number;
  clock: Clock;
  dispatcher: Dispatcher | undefined;
}

export class Transport {
  readonly #options: TransportOptions;
  readonly #dispatcher: Dispatcher;
  readonly #headers: Record<string, string>;
  #closed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
    this.#dispatcher = options.dispatcher ?? new Pool(options.url.origin, { connections: options.connections });
    this.#headers = options.apiKey === undefined ? {} : { authorization: `Bearer ${options.apiKey}` };
  }

  get clock(): Clock {
    return this.#options.clock;
  }

  get backoff(): Backoff {
    return this.#options.backoff;
  }

  /** The whole answer. Rejects with EverloopError, or with the reason of the caller's signal. */
  async send(request: Outgoing): Promise<Incoming> {
    const { clock, backoff } = this.#options;
    const retries = request.retries ?? this.#options.retries;
    const timeout = request.timeout ?? this.#options.timeout;
    const time = new TimeLimit(clock, timeout, request.signal);
    try {
      for (let attempt = 0; ; attempt++) {
        const answer = await this.#attempt(request, time);
        if (answer instanceof Incoming) {
          return answer;
        }
        const wait = pause(attempt, backoff, answer.error.retryAfter, clock.random());
        if (attempt >= retries || wait >= time.left || !worthRepeating(answer.error, request.harmless, answer.sent)) {
          throw answer.error;
        }
        await sleep(clock, wait, time.signal);
      }
    } finally {
      time.end();
    }
  }

  /** A body that goes on, for as long as the signal lets it. `silence`: milliseconds without a byte after which it counts as dead. */
  async open(
    path: string,
    headers: Record<string, string>,
    signal: AbortSignal,
    silence: number,
  ): Promise<AsyncIterable<Buffer>> {
    this.#refuseIfClosed();
    const options = { method: "GET", path, headers: { ...this.#headers, ...headers }, signal, bodyTimeout: silence };
    const { statusCode, headers: answered, body } = await this.#exchange(options, signal);
    if (statusCode >= 300) {
      throw refusal(statusCode, (name) => one(answered[name]), await body.text());
    }
    const type = one(answered["content-type"]) ?? "nothing";
    if (!type.startsWith("text/event-stream")) {
      throw foreign(`text/event-stream was expected, ${type} came: ${short(await body.text())}`);
    }
    return body as AsyncIterable<Buffer>;
  }

  /** Idempotent. */
  async close(): Promise<void> {
    if (!this.#closed && this.#options.dispatcher === undefined) {
      this.#closed = true;
      await this.#dispatcher.close();
    }
    this.#closed = true;
  }

  async #attempt(request: Outgoing, time: TimeLimit): Promise<Incoming | Failure> {
    this.#refuseIfClosed();
    time.signal.throwIfAborted();
    try {
      const { statusCode, headers, body } = await this.#dispatcher.request({
        origin: this.#options.url.origin,
        method: request.method,
        path: request.path,
        headers: { ...this.#headers, ...request.headers },
        body: request.body ?? null,
        signal: time.signal,
        headersTimeout: 0, // the call's own time limit counts
        bodyTimeout: 0,
      });
      const header = (name: string) => one(headers[name.toLowerCase()]);
      if (statusCode >= 300) {
        return { error: refusal(statusCode, header, await body.text()), sent: true };
      }
      return new Incoming(statusCode, header("content-type") ?? "", await body.bytes());
    } catch (cause) {
      time.signal.throwIfAborted();
      return unreachable(this.#options.url.href, cause);
    }
  }

  async #exchange(options: Omit<Dispatcher.RequestOptions, "origin">, signal: AbortSignal) {
    try {
      return await this.#dispatcher.request({ origin: this.#options.url.origin, ...options });
    } catch (cause) {
      signal.throwIfAborted();
      throw unreachable(this.#options.url.href, cause).error;
    }
  }

  #refuseIfClosed(): void {
    if (this.#closed) {
      throw new EverloopError({ code: "closed", detail: "this client was closed; make another one" });
    }
  }
}

interface Failure {
  error: EverloopError;
  sent: boolean;
}

/** The caller's signal and the call's own end as one signal. */
class TimeLimit {
  readonly #abort = new AbortController();
  readonly #cancel: () => void;
  readonly #until: number;
  readonly #passOn = () => this.#abort.abort(this.caller?.reason);

  constructor(
    private readonly clock: Clock,
    milliseconds: number,
    private readonly caller: AbortSignal | undefined,
  ) {
    this.#until = milliseconds > 0 ? clock.now() + milliseconds : Number.POSITIVE_INFINITY;
    if (!(milliseconds >= 0)) {
      throw new RangeError(`timeout: expected a number of at least 0, got ${milliseconds}`);
    }
    const detail = `no answer within ${milliseconds} ms`;
    const late = () => this.#abort.abort(new EverloopError({ code: "timeout", detail }));
    this.#cancel = milliseconds > 0 ? clock.after(milliseconds, late) : () => {};
    if (caller?.aborted) {
      this.#passOn();
    } else {
      caller?.addEventListener("abort", this.#passOn, { once: true });
    }
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get left(): number {
    return this.#until - this.clock.now();
  }

  end(): void {
    this.#cancel();
    this.caller?.removeEventListener("abort", this.#passOn);
  }
}

function one(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value;
}
