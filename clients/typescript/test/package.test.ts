/** What is in the package, and that it works where it is installed. */

import assert from "node:assert/strict";
import { test } from "node:test";

test("the package exports its parts", async () => {
  const everloop = await import("everloop");
  assert.equal(typeof everloop, "object");
});
