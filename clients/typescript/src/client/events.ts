/**
 * Server-sent events (WHATWG HTML, 9.2) as an async iterator that comes back by itself and misses nothing.
 *
 * The id of the newest event goes back as Last-Event-ID when a connection is opened anew, so what happened in between comes first.
 * A server whose newest event is older than that has another journal: it says `reset`, and tells its own from the beginning.
 */

import { EverloopError, foreign, short } from "./errors.js";
import { pause, sleep, worthRepeating } from "./retries.js";
import type { Transport } from "./transport.js";
import type { EverloopEvent } from "./types.js";

/** The server says that it is still there every 15 s. */
const SILENCE = 45_000;

export interface EventOptions {
  /** Only this model's. */
  model?: string | undefined;
  /** First what came after the event of this id; left out: only what happens from now on. */
  after?: number | undefined;
  /** Ends the iteration, quietly. */
  signal?: AbortSignal | undefined;
  /** The server's journal is not the one that was read before: it began anew (a server without a store, or another one). What it has
   * comes from its beginning; what the old one still had is lost. A warning of the process where it is left out. */
  restarted?: (() => void) | undefined;
  /** How many attempts in a row may fail before the iteration fails, too. As often as it takes where it is left out. */
  attempts?: number | undefined;
}

export interface Message {
  id: string;
  event: string;
  data: string;
}

/** Events as they happen; a connection that breaks is opened again. Throws EverloopError for what does not pass (401, 404 …). */
export async function* follow(
  transport: Transport,
  prefix: string,
  { model, after, signal, restarted = warn, attempts = Number.POSITIVE_INFINITY }: EventOptions,
): AsyncGenerator<EverloopEvent, void, void> {
  const path = `${prefix}/v1/events${model === undefined ? "" : `?model=${encodeURIComponent(model)}`}`;
  const ended = new AbortController();
  const end = () => ended.abort();
  signal?.addEventListener("abort", end, { once: true });
  let newest = after === undefined ? "" : String(after);
  let failed = 0;
  try {
    while (!signal?.aborted) {
      const parser = new Parser(newest);
      let failure: EverloopError | undefined;
      try {
        const accept = { accept: "text/event-stream", ...(newest ? { "last-event-id": newest } : {}) };
        for await (const chunk of await transport.open(path, accept, ended.signal, SILENCE)) {
          failed = 0;
          for (const message of parser.feed(chunk)) {
            newest = message.id;
            if (message.event === "reset") {
              restarted();
            } else {
              yield read(message.data);
            }
          }
          newest = parser.newest;
        }
      } catch (error) {
        if (signal?.aborted) {
          return;
        }
        failure = error instanceof EverloopError ? error : brokenOff(error);
        if (++failed >= attempts || !worthRepeating(failure, true, true)) {
          throw failure;
        }
      }
      const { clock, backoff } = transport;
      const wait = parser.retry ?? 0;
      await sleep(clock, wait + pause(failed, backoff, failure?.retryAfter, clock.random()), signal).catch(() => {}); // ended meanwhile
    }
  } finally {
    signal?.removeEventListener("abort", end);
    ended.abort();
  }
}

/** Bytes in any portions to messages. */
export class Parser {
  /** Milliseconds after which the server would like its reader back. */
  retry: number | undefined;
  readonly #decoder = new TextDecoder(); // passes over a byte order mark at the beginning, as the specification asks
  #rest = "";
  #event = "";
  #data: string[] = [];

  constructor(
    /** The id of the newest message, to come back with. */
    public newest = "",
  ) {}

  *feed(chunk: Uint8Array): Generator<Message, void, void> {
    const text = this.#rest + this.#decoder.decode(chunk, { stream: true });
    // A CR at the very end may be half of a CRLF.
    const lines = text.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    for (const line of lines) {
      const message = this.#line(line);
      if (message) {
        yield message;
      }
    }
  }

  #line(line: string): Message | undefined {
    if (line === "") {
      const message = { id: this.newest, event: this.#event || "message", data: this.#data.join("\n") };
      const some = this.#data.length > 0;
      this.#event = "";
      this.#data = [];
      return some ? message : undefined;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "data") {
      this.#data.push(value);
    } else if (field === "event") {
      this.#event = value;
    } else if (field === "id" && !value.includes("\0")) {
      this.newest = value;
    } else if (field === "retry" && /^\d+$/.test(value)) {
      this.retry = Number(value);
    }
    return undefined;
  }
}

function read(data: string): EverloopEvent {
  try {
    return JSON.parse(data) as EverloopEvent;
  } catch (cause) {
    throw foreign(`its stream has an event that is no JSON: ${short(data)}`, { cause });
  }
}

function warn(): void {
  const what = "the server's journal of events began anew: what happened before it did may be missing";
  process.emitWarning(what, { code: "EVERLOOP_EVENTS" });
}

function brokenOff(cause: unknown): EverloopError {
  const detail = `the stream of events broke off: ${cause instanceof Error ? cause.message : cause}`;
  return new EverloopError({ code: "unreachable", detail }, { cause });
}
