/** Every error as one `application/problem+json` (RFC 9457), which tells callers what they can do and nothing of our insides. */

import { STATUS_CODES } from "node:http";
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { NotReady } from "./models";
import type { PythonError } from "./polyglot/bridge";

interface Problem {
  status: number;
  title: string;
  detail: string;
  field?: string | undefined;
  retryAfter?: number;
}

const OF_PYTHON: Record<string, [status: number, title: string]> = {
  InvalidInput: [422, "Invalid input"],
  NotSupported: [422, "Not supported"],
  TooLarge: [413, "Too large"],
};

/** Too much of these is refused as a body is that is too large. */
const COUNTED = /^(text|texts(\[\d+\])?|limit|top_k|exclude|history)$/;

export class Unauthenticated extends Error {}

export function tellProblems(app: FastifyInstance): void {
  app.setErrorHandler((error: FastifyError, request, reply) => tell(problemOf(error), error, request, reply));
  app.setNotFoundHandler((request, reply) => {
    const detail = `there is no ${request.method} ${request.url}`;
    const url = request.url.split("?", 1)[0] ?? "";
    const allowed = (["GET", "POST"] as const).filter((method) => app.hasRoute({ method, url }));
    if (allowed.length > 0) {
      reply.header("allow", allowed.join(", "));
      return tell({ status: 405, title: "Method not allowed", detail }, null, request, reply);
    }
    return tell({ status: 404, title: "Not found", detail }, null, request, reply);
  });
}

function tell(problem: Problem, error: Error | null, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const { status, title, detail, field, retryAfter } = problem;
  // A model that is not ready, or too many that ask, is no news at each request.
  if (status >= 500 && status !== 503 && error !== null) {
    const traceback = fromPython(error) ? error.traceback : undefined;
    request.log.error({ err: error, traceback }, detail);
  }
  if (retryAfter !== undefined) {
    reply.header("retry-after", retryAfter);
  }
  if (status === 401) {
    reply.header("www-authenticate", "Bearer");
  }
  const body = { type: "about:blank", title, status, detail, error: detail, field, request_id: request.id };
  return reply.code(status).type("application/problem+json").send(JSON.stringify(body));
}

/** By its name: the application runs without a bridge, too. */
function fromPython(error: Error): error is PythonError {
  return error.name === "PythonError";
}

function problemOf(error: FastifyError): Problem {
  if (error.validation?.[0] !== undefined) {
    return invalid(error.validation[0]);
  }
  if (fromPython(error)) {
    const [status, title] = OF_PYTHON[error.type.split(".").at(-1) ?? ""] ?? [500, "Model failed"];
    if (status === 500) {
      return { status, title, detail: "the model failed; the server's log tells why" };
    }
    const detail = error.message.slice(error.type.length + 2);
    return { status, title, detail, field: /^([\w.[\]]+): /.exec(detail)?.[1] };
  }
  if (error instanceof NotReady) {
    return { status: 503, title: "Not ready", detail: error.message, retryAfter: 1 };
  }
  if (error.name === "BridgeOverloaded") {
    return { status: 503, title: "Overloaded", detail: "too many requests wait already", retryAfter: 1 };
  }
  if (error.name === "BridgeTimeout") {
    return { status: 504, title: "Too slow", detail: "the model gave no answer in time" };
  }
  if (error instanceof Unauthenticated) {
    return { status: 401, title: "Unauthenticated", detail: error.message };
  }
  const status = error.statusCode ?? 500;
  const detail = status >= 500 ? "the server failed; its log tells why" : error.message;
  return { status, title: STATUS_CODES[status] ?? "Error", detail };
}

function invalid(first: NonNullable<FastifyError["validation"]>[number]): Problem {
  const { missingProperty, additionalProperty } = first.params as Record<string, string>;
  const path = [...first.instancePath.split("/").slice(1), missingProperty ?? additionalProperty].filter(Boolean);
  const field = path.join(".").replace(/\.(\d+)(?=\.|$)/g, "[$1]");
  const what =
    additionalProperty === undefined ? (missingProperty === undefined ? first.message : "is missing") : "is unknown";
  const detail = `${field || "the body"} ${what}`;
  if (first.keyword.startsWith("max") && COUNTED.test(field)) {
    return { status: 413, title: "Too large", detail, field };
  }
  return { status: 422, title: "Invalid input", detail, field };
}
