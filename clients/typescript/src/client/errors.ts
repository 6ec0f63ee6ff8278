/** The one error of this client: what the server refused, or why it was not asked. */

/** Codes that the client itself gives; all others are the server's, listed in its documentation under "Errors". */
export type ClientCode = "unreachable" | "timeout" | "closed" | "not_everloop";

export interface Problem {
  code: string;
  detail: string;
  status?: number | undefined;
  field?: string | undefined;
  requestId?: string | undefined;
  retryAfter?: number | undefined;
}

/**
 * A refusal (RFC 9457 `problem+json`), or a server that could not be asked. `message` is one sentence for a person; a program looks at
 * `code`, which is stable.
 */
export class EverloopError extends Error {
  override readonly name = "EverloopError";
  /** `invalid_input`, `model_not_found`, `overloaded` …; `unreachable`, `timeout`, `closed` and `not_everloop` are the client's own. */
  readonly code: string;
  /** The HTTP status; undefined where there was no answer. */
  readonly status: number | undefined;
  /** Which part of the request is to blame, e.g. `features[3]`. */
  readonly field: string | undefined;
  /** The id under which the server's log has it, where it gave one. */
  readonly requestId: string | undefined;
  /** Seconds after which trying again may help, where the server said so. */
  readonly retryAfter: number | undefined;

  constructor(problem: Problem, options?: ErrorOptions) {
    super(problem.detail, options);
    this.code = problem.code;
    this.status = problem.status;
    this.field = problem.field;
    this.requestId = problem.requestId;
    this.retryAfter = problem.retryAfter;
  }
}

/** The refusal in an answer of status 300 and above. What is no problem document comes from something between client and server. */
export function refusal(status: number, header: (name: string) => string | undefined, body: string): EverloopError {
  const told = parsed(body);
  const code = typeof told.code === "string" ? told.code : undefined;
  const detail = typeof told.detail === "string" ? told.detail : undefined;
  const more = code === undefined ? ` (${short(body) || "no reason given"}); is an everloop server there?` : "";
  return new EverloopError({
    status,
    code: code ?? "not_everloop",
    detail: detail ?? `the server answered ${status}${more}`,
    field: typeof told.field === "string" ? told.field : undefined,
    requestId: header("x-request-id"),
    retryAfter: seconds(header("retry-after")),
  });
}

/** Something answered, with success, what no everloop server does: a captive portal, a single-page application, a wrong port. */
export function foreign(why: string, options?: ErrorOptions): EverloopError {
  const detail = `the answer is not an everloop server's: ${why}`;
  return new EverloopError({ code: "not_everloop", detail }, options);
}

/** What an answer has under `field`, which every server of everloop gives; throws `not_everloop` where it is not there. */
export function held<T extends object, K extends keyof T & string>(answer: T, field: K): T[K] {
  if (answer[field] === undefined) {
    throw foreign(`it has no ${field}`);
  }
  return answer[field];
}

/** Why there was no answer. `sent`: whether the server may have got the request. */
export function unreachable(url: string, cause: unknown): { error: EverloopError; sent: boolean } {
  const code = String((cause as { code?: unknown }).code ?? "");
  const why = REASONS[code] ?? (cause instanceof Error && cause.message ? cause.message : String(cause));
  const detail = `cannot reach the server at ${url}: ${why}`;
  return { error: new EverloopError({ code: "unreachable", detail }, { cause }), sent: !NEVER_SENT.has(code) };
}

const REASONS: Record<string, string> = {
  ECONNREFUSED: "nothing listens there; start one with `everloop serve`",
  ENOTFOUND: "there is no host of that name",
  UND_ERR_CONNECT_TIMEOUT: "no connection in time",
  UND_ERR_SOCKET: "it closed the connection",
  ECONNRESET: "it closed the connection",
};
const NEVER_SENT = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "UND_ERR_CONNECT_TIMEOUT"]);

function parsed(body: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {}; // a proxy's page, say
  }
}

/** Retry-After is a number of seconds or a date (RFC 9110, 10.2.3). */
function seconds(value: string | undefined): number | undefined {
  if (value === undefined || value === "") {
    return undefined;
  }
  if (/^\d+$/.test(value)) {
    return Number(value);
  }
  const at = Date.parse(value);
  return Number.isNaN(at) ? undefined : Math.max(0, (at - Date.now()) / 1000);
}

/** One line of at most 100 characters. */
export function short(text: string): string {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length <= 100 ? line : `${line.slice(0, 99)}…`;
}
