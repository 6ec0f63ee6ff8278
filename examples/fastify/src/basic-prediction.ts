import { PolyglotBridge } from "./polyglot/bridge";

// Initialize the bridge
const bridge = new PolyglotBridge();

// Call Python ML model from TypeScript
const result = await bridge.callPython("sentiment_model", "analyze", {
  text: "This is amazing!",
});

console.log(result); // { sentiment: 'positive', confidence: 0.98, … }
