/**
 * Calls of Python through the bridge, and of the same function behind HTTP and gRPC, in turns; JSON on stdout.
 *
 *     node dist-bench/bridge.js '{"http": 8001, "grpc": 8002, "rounds": 5}'
 */

import { performance } from "node:perf_hooks";
import { Client, credentials } from "@grpc/grpc-js";
import type { PolyglotBridge } from "everloop/bridge";
import { Agent } from "undici";
import { latency, measured, SMALL, type Spread, settings, spread, throughput } from "./shared.js";

interface Settings {
  http: number;
  grpc: number;
  rounds: number;
  calls: number;
  python?: string;
}

const JSON_HEADERS = { "content-type": "application/json" };
const FLOATS = Array.from({ length: 1000 }, (_, i) => i / 7);

function httpCall(port: number): { call(): Promise<unknown>; close(): Promise<void> } {
  const agent = new Agent({ connections: 64, pipelining: 1 });
  const request = { origin: `http://127.0.0.1:${port}`, path: "/", method: "POST" as const, headers: JSON_HEADERS };
  return {
    call: async () => (await agent.request({ ...request, body: JSON.stringify(SMALL) })).body.json(),
    close: () => agent.close(),
  };
}

function grpcCall(port: number): { call(): Promise<unknown>; close(): void } {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  const write = (value: unknown) => Buffer.from(JSON.stringify(value));
  const read = (bytes: Buffer): unknown => JSON.parse(bytes.toString());
  return {
    call: () =>
      new Promise((resolve, reject) => {
        client.makeUnaryRequest("/measured.Model/Score", write, read, SMALL, (error, value) =>
          error === null ? resolve(value) : reject(error),
        );
      }),
    close: () => client.close(),
  };
}

/** How late timers of 2 ms are, in ms, while three Python threads compute and one small call is made at each turn. */
async function lagBesideBurning(bridge: PolyglotBridge, seconds: number): Promise<Spread> {
  const burning = Array.from({ length: 3 }, () => bridge.callPython("measured", "burn", [seconds], { timeout: 0 }));
  const lags: number[] = [];
  const calls: Promise<unknown>[] = [];
  const until = performance.now() + seconds * 1000;
  while (performance.now() < until) {
    const expected = performance.now() + 2;
    await new Promise((resolve) => setTimeout(resolve, 2));
    lags.push(performance.now() - expected);
    calls.push(bridge.callPython("measured", "score", SMALL));
  }
  await Promise.all([...burning, ...calls]);
  return spread(Float64Array.from(lags));
}

async function main(): Promise<void> {
  const { http, grpc, rounds, calls, python } = settings<Settings>({ http: 0, grpc: 0, rounds: 3, calls: 4000 });
  const own = python === undefined ? {} : { python };
  const bridge = measured({ transport: "in-process", ...own });
  const apart = measured({ transport: "process", ...own });
  const overHttp = httpCall(http);
  const overGrpc = grpcCall(grpc);
  const by = (which: PolyglotBridge, fn: string, args: unknown) => () => which.callPython("measured", fn, args);
  const sides: Record<string, [() => Promise<unknown>, number]> = {
    fast: [by(bridge, "score", SMALL), calls],
    pool: [by(bridge, "score_in_pool", SMALL), calls],
    coroutine: [by(bridge, "score_awaited", SMALL), calls],
    process: [by(apart, "score", SMALL), calls],
    "process pool": [by(apart, "score_in_pool", SMALL), calls],
    http: [overHttp.call, calls / 4],
    grpc: [overGrpc.call, calls / 8],
    "1,000 floats": [by(bridge, "same", [FLOATS]), calls / 4],
    "1,000 floats, Float64Array": [by(bridge, "same", [Float64Array.from(FLOATS)]), calls / 4],
  };
  const answers: Record<string, Spread[]> = {};
  for (const [name, [call, count]] of Object.entries(sides)) {
    answers[name] = [];
    await latency(call, Math.min(500, count));
  }
  const rates: Record<string, number[]> = { fast: [], process: [], http: [], grpc: [] };
  for (const name of Object.keys(rates)) {
    await throughput((sides[name] as (typeof sides)[string])[0], 2000, 64);
  }
  for (let round = 0; round < rounds; round++) {
    for (const [name, [call, count]] of Object.entries(sides)) {
      answers[name]?.push(await latency(call, count));
    }
    for (const name of Object.keys(rates)) {
      const count = name === "fast" || name === "process" ? calls * 10 : calls / 2;
      rates[name]?.push(await throughput((sides[name] as (typeof sides)[string])[0], count, 64));
    }
  }
  const million = new Float64Array(1_000_000);
  const large = await latency(by(bridge, "same_in_pool", [million]), 15);
  const lags: Spread[] = [];
  for (let round = 0; round < rounds; round++) {
    lags.push(await lagBesideBurning(bridge, 1.5));
  }
  await bridge.close();
  await apart.close();
  await overHttp.close();
  overGrpc.close();
  const versions = { node: process.version, python: bridge.getInfo().python.version };
  process.stdout.write(
    `${JSON.stringify({ versions, latencyUs: answers, callsPerSecond: rates, millionFloatsUs: large, lagMs: lags })}\n`,
  );
}

await main();
