/** Python functions, called from Node. */

export { NdArray, type TypedArray } from "./arrays.js";
export { type BridgeInfo, type BridgeOptions, PolyglotBridge, type Transport } from "./bridge.js";
export type { BridgeCallOptions } from "./channel.js";
export {
  BridgeArgumentError,
  BridgeClosed,
  BridgeCrashed,
  BridgeError,
  BridgeOverloaded,
  BridgeStartError,
  BridgeTimeout,
  PythonError,
} from "./errors.js";
export type { BridgeMetrics, FunctionMetrics, Latency } from "./metrics.js";
