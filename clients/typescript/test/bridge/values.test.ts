/** What travels, and how it arrives: every kind of value, both ways, through both transports. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { BridgeArgumentError, NdArray, PythonError } from "everloop/bridge";
import { opened, TRANSPORTS } from "./opened.js";

/** Small, seeded, good enough to draw test values from. */
function randoms(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

function drawn(random: () => number, depth = 0): unknown {
  const draw = Math.floor(random() * (depth > 3 ? 9 : 12));
  const count = Math.floor(random() ** 3 * 40);
  const texts = ["", "é", "日本語", "👩‍🚀", "x".repeat(31), "y".repeat(32), "ä".repeat(300), "z".repeat(70_000)];
  switch (draw) {
    case 0:
      return null;
    case 1:
      return random() < 0.5;
    case 2:
      return Math.floor((random() - 0.5) * 2 ** (random() * 53));
    case 3:
      return random() * 1e300;
    case 4:
      return texts[Math.floor(random() * texts.length)];
    case 5:
      return BigInt(Math.floor(random() * 2 ** 52)) * 2n ** BigInt(2 + Math.floor(random() * 200)) + 2n ** 60n;
    case 6:
      return new Date(Math.floor((random() - 0.2) * 4e12));
    case 7:
      return Float64Array.from({ length: count }, () => random());
    case 8:
      return Buffer.from(Array.from({ length: count }, () => Math.floor(random() * 256)));
    case 9:
    case 10:
      return Array.from({ length: count }, () => drawn(random, depth + 1));
    default:
      return Object.fromEntries(
        Array.from({ length: count }, (_, i) => [`k${i}${"é".repeat(i % 3)}`, drawn(random, depth + 1)]),
      );
  }
}

for (const transport of TRANSPORTS) {
  test(`${transport}: values go to Python and come back the same`, async (t) => {
    const bridge = opened(t, { transport });
    const numbers = [
      0,
      1,
      -1,
      127,
      128,
      -32,
      -33,
      255,
      256,
      2 ** 31 - 1,
      2 ** 31,
      -(2 ** 31) - 1,
      2 ** 53 - 1,
      -(2 ** 53),
      1e300,
    ];
    const one = { ...Object.fromEntries(numbers.map((n) => [`n${n}`, n])), nested: [[], {}, [[null]]], "": true };
    assert.deepEqual(await bridge.callPython("things", "same", [one]), one);
    const odd = (await bridge.callPython("things", "same", [[Number.NaN, Infinity, -Infinity, -0]])) as number[];
    assert.deepEqual(odd, [Number.NaN, Infinity, -Infinity, -0]);
    const bigs = [2n ** 53n, -(2n ** 63n), 2n ** 64n - 1n, 2n ** 64n, -(2n ** 63n) - 1n, 2n ** 300n, -(2n ** 71n)];
    assert.deepEqual(await bridge.callPython("things", "same", [bigs]), bigs);
    for (const fn of ["same", "same_in_pool", "same_awaited"]) {
      const random = randoms(7);
      for (let i = 0; i < 60; i++) {
        const value = drawn(random);
        assert.deepEqual(await bridge.callPython("things", fn, [value]), value, `draw ${i} through ${fn}`);
      }
    }
  });

  test(`${transport}: Python's own kinds of values`, async (t) => {
    const bridge = opened(t, { transport });
    const given = (what: string) => bridge.callPython("things", "give", [what]);
    assert.deepEqual(await given("dataclass"), { x: 1, y: 2.5 });
    assert.deepEqual(await given("set"), [1]);
    assert.deepEqual(await given("tuple"), [1, "two"]);
    assert.equal(await given("decimal"), "1.50");
    assert.equal(await given("uuid"), "00000000-0000-0000-0000-000000000001");
    assert.deepEqual(await given("datetime"), new Date("2020-01-02T03:04:05.678Z"));
    assert.equal(await given("date"), "2020-01-02");
    assert.equal(await given("big"), 2n ** 53n + 1n);
    assert.deepEqual(await given("huge"), { value: -(2n ** 200n) });
    assert.deepEqual(await given("nan"), [Number.NaN, Infinity, -Infinity, -0]);
    assert.deepEqual(await given("bytes"), Buffer.from([0, 255]));
    assert.deepEqual(await given("numpy scalars"), [0.5, 1.5, 7, true, "s"]);
    assert.deepEqual(await given("matrix"), new NdArray(Int16Array.of(0, 1, 2, 3, 4, 5), [2, 3]));
    assert.deepEqual(await given("tensor"), new NdArray(Float32Array.of(0, 1, 2, 3), [2, 2]));
    assert.deepEqual(await given("transposed"), new NdArray(Float64Array.of(0, 3, 1, 4, 2, 5), [3, 2]));
    assert.deepEqual(await given("big endian"), Int32Array.of(1, 2));
    assert.deepEqual(await given("scalar array"), new NdArray(Float64Array.of(3.5), []));
    assert.deepEqual(await given("booleans"), new NdArray(Uint8Array.of(1, 0), [2], "bool"));
    assert.deepEqual(await given("strings"), ["a", "b"]);
    assert.deepEqual(await given("halves"), new NdArray(Uint16Array.of(0x3c00), [1], "float16"));
    assert.deepEqual(await given("number keys"), { 1: "a", 2.5: "b" });
    assert.equal(await given("naive"), "2020-01-02T03:04:05"); // Nobody knows which moment that was.
    assert.deepEqual(await given("dates"), [["2020-01-02T00:00:00.000000000", null], ["2020-01-02"]]);
    assert.equal(await given("date scalar"), "2020-01-02");
    assert.deepEqual(await given("durations"), [["PT1.5S"], "PT1.5S"]);
    assert.deepEqual(await given("records"), [
      { x: 1, name: "a" },
      { x: 2, name: "b" },
    ]);
    assert.deepEqual(await given("no mask"), Float64Array.of(1, 2));
    assert.deepEqual(await given("derived"), ["t", Buffer.from("b")]);
    assert.deepEqual(await given("huge in a dataclass"), { x: 2n ** 80n, y: 0.5 });
    assert.deepEqual(await given("huge key"), { [`${2n ** 80n}`]: 2n ** 90n });
    const large = (await given("large")) as Float64Array;
    assert.equal(large.length, 100_000);
    assert.equal(large[99_999], 99_999);
    const proto = (await given("proto")) as Record<string, unknown>;
    assert.deepEqual(Object.keys(proto), ["__proto__", "ok"]);
    assert.equal(({} as Record<string, unknown>).polluted, undefined);
    await assert.rejects(given("two keys"), { code: "ANSWER", message: /two keys are one in JavaScript/ });
    for (const [what, named] of [
      ["opaque", /Opaque cannot be sent to JavaScript/],
      ["masked", /a masked array that hides values/],
      ["long double", /longdouble cannot be sent/],
      ["complex", /complex128 cannot be sent/],
      ["function", /builtin_function_or_method cannot be sent/],
      ["deep", /^TypeError: rows\[1\]\.point\.y: a complex cannot be sent/],
    ] as const) {
      await assert.rejects(
        given(what),
        (error) => error instanceof PythonError && error.type === "TypeError" && named.test(error.message),
      );
    }
  });

  test(`${transport}: every typed array keeps its dtype, its part of the buffer and its values`, async (t) => {
    const bridge = opened(t, { transport });
    const backing = new ArrayBuffer(96);
    new Uint8Array(backing).forEach((_, i, all) => {
      all[i] = i % 63;
    });
    const arrays = [
      new Int8Array(backing, 3, 5),
      new Uint8Array(backing, 1, 7),
      new Int16Array(backing, 2, 3),
      new Uint16Array(backing, 4, 4),
      new Int32Array(backing, 8, 2),
      new Uint32Array(backing, 4, 3),
      new BigInt64Array(backing, 8, 2),
      new BigUint64Array(backing, 16, 3),
      new Float32Array(backing, 4, 5),
      new Float64Array(backing, 8, 3),
      new Float64Array(0),
    ];
    for (const array of arrays) {
      assert.deepEqual(await bridge.callPython("things", "same", [array]), array);
      assert.equal(await bridge.callPython("things", "kind", [array]), "numpy.ndarray");
    }
    const cube = new NdArray(
      Float32Array.from({ length: 24 }, (_, i) => i),
      [2, 3, 4],
    );
    assert.deepEqual(await bridge.callPython("things", "same", [cube]), cube);
    assert.equal(await bridge.callPython("things", "kind", [Buffer.from("x")]), "builtins.bytes");
    assert.equal(await bridge.callPython("things", "kind", [new Map([[1, 2]])]), "builtins.dict");
    assert.equal(await bridge.callPython("things", "kind", [new Set([1])]), "builtins.list");
    assert.match((await bridge.callPython("things", "text", [new Date(0)])) as string, /datetime.*1970.*utc/i);
    assert.equal(
      await bridge.callPython("things", "text", [{ a: undefined, b: [undefined], c: new URL("http://a.b/") }]),
      "{'b': [None], 'c': 'http://a.b/'}",
    );
  });

  test(`${transport}: a large array is what it was when the call was made, and Python may keep it`, async (t) => {
    const bridge = opened(t, { transport });
    const array = new Float64Array(500_000).fill(1);
    const bytes = Buffer.alloc(100_000, 7);
    const sums = Array.from({ length: 8 }, () => bridge.callPython("things", "total", [array]));
    const back = bridge.callPython("things", "same_in_pool", [bytes]);
    const kept = bridge.callPython("things", "keep", [array]);
    array.fill(99);
    bytes.fill(9);
    structuredClone(array.buffer, { transfer: [array.buffer] });
    assert.deepEqual(await Promise.all(sums), new Array(8).fill(500_000));
    assert.deepEqual(await back, Buffer.alloc(100_000, 7));
    await kept;
    const garbage = Array.from({ length: 50 }, () => new Float64Array(500_000).fill(5));
    assert.equal(garbage.length, 50);
    assert.equal(await bridge.callPython("things", "kept_total"), 500_000);
    await bridge.callPython("things", "forget");
  });
}

test("in-process: a SharedArrayBuffer is Python's to write to", async (t) => {
  const bridge = opened(t, { transport: "in-process" });
  const array = new Float64Array(new SharedArrayBuffer(16));
  array.set([1, 2]);
  assert.equal(await bridge.callPython("things", "double_in_place", [array]), null);
  assert.deepEqual([...array], [2, 4]);
});

test("what Python cannot be given is refused by its path, and nothing is left waiting", async (t) => {
  const bridge = opened(t);
  const cycle: Record<string, unknown> = {};
  cycle.self = cycle;
  const refusals: [unknown, RegExp][] = [
    [{ rows: [1, { when: () => 1 }] }, /^args\.rows\[1\]\.when is a function/],
    [[Symbol("s")], /^args\[0\] is a symbol/],
    [{ later: Promise.resolve(1) }, /^args\.later is a Promise: await it first/],
    [{ when: new Date(Number.NaN) }, /^args\.when is an invalid Date/],
    [{ like: /x/ }, /^args\.like is a RegExp/],
    [{ failed: new Error("x") }, /^args\.failed is a Error/],
    [{ when: [new Date(8.64e15)] }, /^args\.when\[0\] is a Date outside the years 1 to 9999/],
    [new Map([[{ a: 1 }, 1]]), /^args\.\(key\) is a key Python/],
    [{ m: new Map([[2n ** 80n, 1]]) }, /^args\.m\.1208925819614629174706176 is a key Python/],
    [{ it: [1, 2].values() }, /^args\.it is a Array Iterator, which Python cannot be given/],
    [{ it: (function* () {})() }, /^args\.it is a Generator/],
    [[new Headers()], /^args\[0\] is a Headers/],
    [[new URLSearchParams("a=1")], /^args\[0\] is a URLSearchParams/],
    [[new WeakRef({})], /^args\[0\] is a WeakRef/],
    [[new Blob([])], /^args\[0\] is a Blob/],
    [[new Intl.NumberFormat()], /^args\[0\] is a Intl\.NumberFormat/],
    [[new AbortController()], /^args\[0\] is a AbortController/],
    [{ name: "a\ud800b" }, /^args\.name has half a surrogate pair/],
    [{ "\udc00": 1 }, /has half a surrogate pair/],
    [{ name: `${"a".repeat(40)}\ud800` }, /^args\.name has half a surrogate pair/],
    [cycle, /^args(\.self){8}\.… is nested deeper than 200/],
  ];
  for (const [args, told] of refusals) {
    await assert.rejects(
      bridge.callPython("things", "anything", args),
      (error) => error instanceof BridgeArgumentError && told.test(error.message),
    );
  }
  assert.equal(bridge.getMetrics().pending, 0);
  assert.deepEqual(await bridge.callPython("things", "anything", { a: 1 }), { a: 1 });
  assert.throws(() => new NdArray(new Float64Array(5), [2, 3]), /5 values do not fill/);
  assert.throws(() => new NdArray(new Float64Array(4), [4], "int16"), /does not hold/);
});
