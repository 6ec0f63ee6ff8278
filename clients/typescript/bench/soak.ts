/**
 * Very many calls, with errors, refusals, timeouts and aborts among them: what is left over of them? JSON on stdout.
 *
 *     node --expose-gc dist-bench/soak.js '{"calls": 100000, "transport": "in-process"}'
 */

import type { PolyglotBridge, Transport } from "everloop/bridge";
import { measured, SMALL, settings } from "./shared.js";

interface Settings {
  calls: number;
  transport: Transport;
  python?: string;
}

const WIDTH = 64;
const FLOATS = new Float64Array(8192).fill(0.5);

/** The `i`th call, whose outcome is known: true if it came. */
async function one(bridge: PolyglotBridge, i: number): Promise<boolean> {
  const refused = (call: Promise<unknown>, name: string) =>
    call.then(
      () => false,
      (error: Error) => error.name === name,
    );
  switch (i % 20) {
    case 0:
      return refused(bridge.callPython("measured", "fail", [`call ${i}`]), "PythonError");
    case 1:
      return refused(bridge.callPython("measured", "sleep", [60], { timeout: 1 }), "BridgeTimeout");
    case 2: {
      const controller = new AbortController();
      const call = refused(bridge.callPython("measured", "sleep", [60], { signal: controller.signal }), "AbortError");
      setImmediate(() => controller.abort());
      return call;
    }
    case 3:
      return refused(bridge.callPython("measured", "same", [() => i]), "BridgeArgumentError");
    case 4:
      return refused(bridge.callPython("measured", "absent"), "PythonError");
    case 5: {
      const back = await bridge.callPython<Float64Array>("measured", "same_in_pool", [FLOATS]);
      return back.length === FLOATS.length && back[8191] === 0.5;
    }
    case 6:
      return (await bridge.callPython("measured", "same_in_pool", [i])) === i;
    case 7:
      return (await bridge.callPython<{ user: string }>("measured", "score_awaited", SMALL)).user === SMALL.user;
    default:
      return (await bridge.callPython("measured", "same", [i])) === i;
  }
}

async function run(bridge: PolyglotBridge, from: number, to: number): Promise<number> {
  let next = from;
  let wrong = 0;
  await Promise.all(
    Array.from({ length: WIDTH }, async () => {
      while (next < to) {
        const i = next++;
        wrong += (await one(bridge, i)) ? 0 : 1;
      }
    }),
  );
  return wrong;
}

async function resident(bridge: PolyglotBridge): Promise<number> {
  await bridge.callPython("measured", "collect");
  globalThis.gc?.();
  return process.memoryUsage().rss / 2 ** 20;
}

async function main(): Promise<void> {
  const { calls, transport, python } = settings<Settings>({ calls: 100_000, transport: "in-process" });
  const bridge = measured({ transport, ...(python === undefined ? {} : { python }) });
  const quarter = Math.floor(calls / 4);
  let wrong = await run(bridge, 0, quarter);
  const early = await resident(bridge);
  wrong += await run(bridge, quarter, calls);
  while (bridge.getMetrics().abandoned > 0) {
    await bridge.callPython("measured", "same", [0]);
  }
  const late = await resident(bridge);
  const { pending, abandoned, restarts, failed, timedOut, cancelled } = bridge.getMetrics();
  await bridge.close();
  const left = { pending, abandoned, restarts, lent: bridge.getInfo().lent };
  process.stdout.write(
    `${JSON.stringify({ calls, wrong, left, failed, timedOut, cancelled, residentMb: [early, late] })}\n`,
  );
}

await main();
