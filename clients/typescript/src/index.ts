/** Everything that a program imports: the bridge to Python in this process, and the client of a model server. */

export * from "./bridge/index.js";
export * from "./client/index.js";
