/** Any operation of the server, with the types of its OpenAPI document: the answer itself, or an EverloopError. */

import type { paths } from "./schema.js";
import { type CallOptions, JSON_TYPE, OCTETS, type Transport } from "./transport.js";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
/** Paths of the server that know a method. */
export type Path<M extends Method> = {
  [P in keyof paths]: paths[P][Lowercase<M> & keyof paths[P]] extends { responses: unknown } ? P : never;
}[keyof paths];
type Operation<M extends Method, P extends Path<M>> = paths[P][Lowercase<M> & keyof paths[P]];

/** What is sent and answered of a content: JSON where it can be, else bytes, else text. */
type Content<C> = "application/json" extends keyof C
  ? C["application/json"]
  : "application/octet-stream" extends keyof C
    ? Uint8Array
    : string;

/** What an operation is given: `path`, `query` and `header` parameters, and a `body`. */
export type Given<O> = Parameters<O> & Body<O>;
type Parameters<O> = O extends { parameters: infer P }
  ? { [K in keyof P as K extends "path" | "query" | "header" ? K : never]: Loose<P[K]> }
  : never;
type Body<O> = O extends { requestBody: { content: infer C } }
  ? { body: Content<C> }
  : O extends { requestBody?: infer B }
    ? [Exclude<B, undefined>] extends [never]
      ? { body?: undefined }
      : Exclude<B, undefined> extends { content: infer C }
        ? { body?: Content<C> | undefined }
        : never
    : never;
/** A parameter may be left out by giving undefined. */
type Loose<T> = T extends object ? { [K in keyof T]: T[K] | undefined } : T;

/** What an operation answers when it does what it was asked. */
export type Answer<O> = O extends { responses: infer R } ? Done<R, Extract<keyof R, 200 | 201 | 202 | 204>> : never;
type Done<R, S extends keyof R> = {
  [K in S]: R[K] extends { content: infer C } ? ([keyof C] extends [never] ? undefined : Content<C>) : undefined;
}[S];

export interface Repeats extends CallOptions {
  /** Whether sending it twice is as good as once; GET and PUT are so by themselves. A second DELETE may hit what came after. */
  harmless?: boolean | undefined;
}
type Init<O> = Given<O> & Repeats;
type Args<I> = Record<never, never> extends I ? [init?: I] : [init: I];

/** `call("GET", "/v1/models/{model}/drift", { path: { model: "price" } })`: path, parameters, body and answer are checked. */
export type Call = <M extends Method, P extends Path<M>>(
  method: M,
  path: P,
  ...init: Args<Init<Operation<M, P>>>
) => Promise<Answer<Operation<M, P>>>;

/** What answers with something else than JSON. The types come of the server's document, and a test holds this against it, too. */
export const NOT_JSON: Readonly<Record<string, string>> = {
  "/docs": "text/html",
  "/v1/events": "text/event-stream",
  "/v1/models/{model}/export": OCTETS,
};

interface AnyInit extends Repeats {
  path?: Record<string, unknown>;
  query?: Record<string, unknown>;
  header?: Record<string, unknown>;
  body?: unknown;
}

/** Fills in paths below `prefix` and sends what comes of it. */
export function calls(transport: Transport, prefix: string): Call {
  const call = async (method: Method, template: string, init: AnyInit = {}): Promise<unknown> => {
    const { path = {}, query, header, body, signal, timeout, retries, harmless } = init;
    const filled = template.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(String(path[name])));
    const bytes = body instanceof Uint8Array;
    const headers = text(header);
    if (body !== undefined) {
      headers["content-type"] = bytes ? OCTETS : JSON_TYPE;
    }
    const search = query === undefined ? "" : new URLSearchParams(text(query)).toString();
    const answer = await transport.send({
      method,
      path: `${prefix}${filled}${search && `?${search}`}`,
      headers,
      body: bytes || body === undefined ? body : JSON.stringify(body),
      signal,
      timeout,
      retries,
      harmless: harmless ?? (method === "GET" || method === "PUT"),
    });
    return answer.content(NOT_JSON[template] ?? JSON_TYPE);
  };
  return call as unknown as Call;
}

function text(values: Record<string, unknown> = {}): Record<string, string> {
  const told = Object.entries(values).filter(([, value]) => value !== undefined && value !== null);
  return Object.fromEntries(told.map(([name, value]) => [name, String(value)]));
}
