/** Why values cannot go to Python, and where they are: what `BridgeArgumentError` tells. */

import { types } from "node:util";

const FIRST_DATE = Date.parse("0001-01-01T00:00:00.000Z");
const LAST_DATE = Date.parse("9999-12-31T23:59:59.999Z");
/** Steps of a path that are told: one that goes round has hundreds. */
const MOST_STEPS = 9;

/** `args.rows[3].when` */
export function told(path: readonly (string | number)[]): string {
  const steps = path.map((step, i) => (typeof step === "number" ? `[${step}]` : `${i ? "." : ""}${step}`));
  return (steps.length > MOST_STEPS ? [...steps.slice(0, MOST_STEPS), ".…"] : steps).join("") || "args";
}

/** Of a value that is neither plain data nor one of the classes that are sent: its content would be missed silently. */
export function whyNotObject(value: object): string | undefined {
  if (types.isPromise(value)) {
    return "is a Promise: await it first";
  }
  const kind = types.isNativeError(value) ? value.constructor.name : Object.prototype.toString.call(value).slice(8, -1);
  return kind === "Object" ? undefined : `is a ${kind}, which Python cannot be given`;
}

/** Of a Map's key, which Python must be able to hash. */
export function whyNotKey(key: unknown): string | undefined {
  const wide = typeof key === "bigint" && BigInt.asIntN(64, key) !== key;
  return wide || (typeof key === "object" && key !== null && !types.isDate(key))
    ? "is a key Python cannot be given: use text, numbers, bigints of 64 bits, booleans, null or Dates"
    : undefined;
}

export function whyNotText(value: string): string | undefined {
  return value.isWellFormed() ? undefined : "has half a surrogate pair, which is no text";
}

/** Python's datetime has the years 1 to 9999. */
export function whyNotDate(milliseconds: number): string | undefined {
  if (Number.isNaN(milliseconds)) {
    return "is an invalid Date";
  }
  return milliseconds < FIRST_DATE || milliseconds > LAST_DATE ? "is a Date outside the years 1 to 9999" : undefined;
}
