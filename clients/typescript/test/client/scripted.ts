/** A server that answers what a test tells it to, and remembers what it was asked. */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

export interface Asked {
  method: string;
  url: string;
  headers: IncomingMessage["headers"];
  body: string;
}

export type Scene = (response: ServerResponse, asked: Asked) => void;

export function problem(status: number, code: string, headers: Record<string, string> = {}): Scene {
  return (response) => {
    response.writeHead(status, { "content-type": "application/problem+json", ...headers });
    response.end(
      JSON.stringify({ type: "", title: "", status, code, detail: `it was ${code}`, error: "", field: "here" }),
    );
  };
}

export function json(value: unknown, status = 200): Scene {
  return (response) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(value));
  };
}

/** The connection breaks when the request is there. */
export const broken: Scene = (response) => void response.socket?.destroy();

/** Nothing is ever answered. */
export const silence: Scene = () => {};

export async function scripted(t: TestContext, ...scenes: Scene[]): Promise<{ url: string; asked: Asked[] }> {
  const asked: Asked[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const { method = "", url = "", headers } = request;
      const one = { method, url, headers, body: Buffer.concat(chunks).toString() };
      const scene = scenes[Math.min(asked.length, scenes.length - 1)];
      asked.push(one);
      scene?.(response, one);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}
