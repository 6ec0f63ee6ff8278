import { PolyglotBridge } from "./polyglot/bridge";

const bridge = new PolyglotBridge();
const data = [
  [5.1, 3.5, 1.4, 0.2],
  [6.7, 3.0, 5.2, 2.3],
];

// Call from TypeScript
const result = await bridge.callPython("custom_model", "predict", {
  input: data,
});

console.log(JSON.stringify(result));
