import { PolyglotBridge } from "./polyglot/bridge";

const bridge = new PolyglotBridge({ poolSize: 10 });

// Warm up models on server start
await bridge.callPython("sentiment_model", "warmup", {});

// Process multiple texts in parallel
const texts = ["Great!", "Bad service", "Okay"];
const results = await Promise.all(texts.map((text) => bridge.callPython("sentiment_model", "analyze", { text })));

// Process multiple items together for better throughput
const together = await bridge.callPython("sentiment_model", "analyze_batch", {
  texts,
});

console.log(JSON.stringify({ results, together }));
