/** Numbers in bulk: which typed array is which NumPy dtype, and arrays of several dimensions. */

export type TypedArray =
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float32Array
  | Float64Array;

/**
 * A NumPy array with its shape and dtype. `data` is row-major; "bool" keeps one byte a value, and "float16", which no
 * typed array of Node 20 has, keeps its raw 16 bits.
 */
export class NdArray {
  constructor(
    readonly data: TypedArray,
    readonly shape: readonly number[],
    readonly dtype: string = dtypeName(dtypeOf(data)),
  ) {
    const count = shape.reduce((product, length) => product * length, 1);
    if (count !== data.length) {
      throw new RangeError(`${data.length} values do not fill an array of shape [${shape.join(", ")}]`);
    }
    const code = dtypeCode(dtype);
    if (itemSize(code) !== data.BYTES_PER_ELEMENT) {
      throw new RangeError(`${data.constructor.name} does not hold values of dtype ${dtype}`);
    }
  }
}

type ArrayMaker = new (buffer: ArrayBuffer) => TypedArray;

const NAMES: Record<string, string> = {
  "|b1": "bool",
  "|i1": "int8",
  "|u1": "uint8",
  "<i2": "int16",
  "<u2": "uint16",
  "<i4": "int32",
  "<u4": "uint32",
  "<i8": "int64",
  "<u8": "uint64",
  "<f2": "float16",
  "<f4": "float32",
  "<f8": "float64",
};
const CODES = new Map(Object.entries(NAMES).map(([code, name]) => [name, code]));
const MAKERS: Record<string, ArrayMaker> = {
  "|b1": Uint8Array,
  "|i1": Int8Array,
  "|u1": Uint8Array,
  "<i2": Int16Array,
  "<u2": Uint16Array,
  "<i4": Int32Array,
  "<u4": Uint32Array,
  "<i8": BigInt64Array,
  "<u8": BigUint64Array,
  "<f2": Uint16Array,
  "<f4": Float32Array,
  "<f8": Float64Array,
};
const CODE_OF_KIND: Record<string, string> = {
  Int8Array: "|i1",
  Uint8Array: "|u1",
  Uint8ClampedArray: "|u1",
  Int16Array: "<i2",
  Uint16Array: "<u2",
  Int32Array: "<i4",
  Uint32Array: "<u4",
  BigInt64Array: "<i8",
  BigUint64Array: "<u8",
  Float16Array: "<f2",
  Float32Array: "<f4",
  Float64Array: "<f8",
};

/** NumPy's code for a typed array ("<f8"). */
export function dtypeOf(array: ArrayBufferView): string {
  const kind = Object.prototype.toString.call(array).slice(8, -1);
  const code = CODE_OF_KIND[kind];
  if (code === undefined) {
    throw new TypeError(`there is no NumPy dtype for a ${kind}`);
  }
  return code;
}

/** NumPy's code for a dtype's name ("float64" is "<f8"); throws RangeError for a name that is not known. */
export function dtypeCode(name: string): string {
  const code = CODES.get(name);
  if (code === undefined) {
    throw new RangeError(`there is no dtype ${name}: known are ${[...CODES.keys()].join(", ")}`);
  }
  return code;
}

function dtypeName(code: string): string {
  return NAMES[code] as string;
}

function itemSize(code: string): number {
  return Number(code.slice(2));
}

/** What `bytes`, a buffer of its own, is in JavaScript: a typed array where that says it all, an `NdArray` otherwise. */
export function arrayFrom(code: string, shape: number[], bytes: ArrayBuffer): TypedArray | NdArray {
  const make = MAKERS[code];
  if (make === undefined) {
    throw new TypeError(`Python sent an array of dtype ${code}, which this version does not know`);
  }
  const data = new make(bytes);
  const plain = shape.length === 1 && code !== "|b1" && code !== "<f2";
  return plain ? data : new NdArray(data, shape, dtypeName(code));
}
