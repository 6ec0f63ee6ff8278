/**
 * JavaScript values as msgpack, for Python. Written here rather than taken from a library because of what must not happen on
 * the way: typed arrays arriving corrupted, integers turning into floats, functions and promises vanishing. What Python has
 * nothing like is refused by its path, and then nothing of the frame is kept.
 */

import { types } from "node:util";
import { dtypeCode, dtypeOf, NdArray } from "./arrays.js";
import { BridgeArgumentError } from "./errors.js";
import { told, whyNotDate, whyNotKey, whyNotObject, whyNotText } from "./refusals.js";
import { absentIn, BY_ADDRESS, Extension, HEAD_SIZE, type SharedMemory, twosComplement } from "./wire.js";
import { Writer } from "./writer.js";

const DEEPEST = 200;
const SHORT = 32;
const LARGEST_FRAME = 2 ** 32;
const NONE: readonly number[] = [];

/** Collects frames until they are taken, in one buffer that is used again. */
export class Encoder extends Writer {
  private readonly path: (string | number)[] = [];
  /** Pins of the frame that was appended last. */
  lent: readonly number[] = NONE;
  private pins: number[] | undefined;
  private lentBytes = 0;
  private writing = false;
  /** Frames of calls that a getter or toJSON of the arguments made: they follow the frame that was being written then. */
  private late: Buffer[] = [];

  constructor(private readonly memory?: SharedMemory) {
    super();
  }

  /** Append a frame whose body `write` writes; if it throws, the frame is not there. Returns its bytes, lent ones included. */
  frame(kind: number, call: number, write: (to: Encoder) => void): number {
    if (this.writing) {
      return this.frameLater(kind, call, write);
    }
    this.pins = undefined;
    this.lentBytes = 0;
    const start = this.at;
    this.reserve(HEAD_SIZE);
    this.at += HEAD_SIZE;
    this.writing = true;
    try {
      write(this);
      if (this.at - start > LARGEST_FRAME) {
        throw new BridgeArgumentError("args", "are larger than 4 GB");
      }
    } catch (error) {
      this.at = start;
      this.path.length = 0;
      this.memory?.released(this.pins ?? NONE);
      this.appendLate();
      throw error;
    } finally {
      this.writing = false;
    }
    const size = this.at - start;
    this.view.setUint32(start, size - 4, true);
    this.bytes[start + 4] = kind;
    this.view.setUint32(start + 5, call, true);
    this.lent = this.pins ?? NONE;
    this.appendLate();
    return size + this.lentBytes;
  }

  private frameLater(kind: number, call: number, write: (to: Encoder) => void): number {
    const other = new Encoder(this.memory);
    const size = other.frame(kind, call, write);
    this.late.push(other.take());
    this.lent = other.lent;
    return size;
  }

  private appendLate(): void {
    if (this.late.length > 0) {
      for (const frames of this.late.splice(0)) {
        this.reserve(frames.length);
        this.bytes.set(frames, this.at);
        this.at += frames.length;
      }
    }
  }

  /** The body of a call. */
  call(module: string, fn: string, args: unknown): void {
    this.byte(0x93);
    this.string(module);
    this.string(fn);
    this.path.push("args");
    const absent = absentIn(args);
    if (absent.length === 0) {
      this.value(args, 0);
    } else {
      this.extension(Extension.named, () => {
        this.byte(0x92);
        this.array(absent, 0);
        this.value(args, 0);
      });
    }
    this.path.pop();
  }

  value(value: unknown, depth = 0): void {
    switch (typeof value) {
      case "string":
        this.string(value);
        return;
      case "number":
        this.number(value);
        return;
      case "boolean":
        this.byte(value ? 0xc3 : 0xc2);
        return;
      case "undefined":
        this.byte(0xc0);
        return;
      case "bigint":
        this.bigint(value);
        return;
      case "object":
        if (value === null) {
          this.byte(0xc0);
        } else {
          this.object(value, depth);
        }
        return;
      default:
        this.refuse(`is a ${typeof value}, which Python cannot be given`);
    }
  }

  private object(value: object, depth: number): void {
    if (depth > DEEPEST) {
      this.refuse(`is nested deeper than ${DEEPEST} (does it contain itself?)`);
    }
    const prototype = Object.getPrototypeOf(value);
    if (prototype === Object.prototype || prototype === null) {
      this.map(value as Record<string, unknown>, depth);
      return;
    }
    if (Array.isArray(value)) {
      this.array(value, depth);
      return;
    }
    if (ArrayBuffer.isView(value)) {
      this.bytesOrArray(value);
      return;
    }
    if (value instanceof NdArray) {
      this.numbers(dtypeCode(value.dtype), [...value.shape], value.data);
      return;
    }
    this.other(value, depth);
  }

  private other(value: object, depth: number): void {
    if (types.isAnyArrayBuffer(value)) {
      this.binary(new Uint8Array(value));
      return;
    }
    if (types.isDate(value)) {
      this.date(value);
      return;
    }
    if (types.isMap(value)) {
      const size = value.size;
      let left = size;
      this.head(size, 0x80, 0xde);
      for (const [key, item] of value) {
        left -= 1;
        if (left < 0) {
          break;
        }
        this.path.push(typeof key === "object" ? "(key)" : String(key));
        this.refuseIf(whyNotKey(key));
        this.value(key);
        this.value(item, depth + 1);
        this.path.pop();
      }
      if (left !== 0) {
        this.refuse("changes while it is read");
      }
      return;
    }
    if (types.isSet(value)) {
      this.array([...value], depth);
      return;
    }
    if (types.isBoxedPrimitive(value)) {
      this.value(value.valueOf(), depth);
      return;
    }
    const asJson = (value as { toJSON?: unknown }).toJSON;
    if (typeof asJson === "function") {
      this.value(asJson.call(value, ""), depth + 1);
      return;
    }
    this.refuseIf(whyNotObject(value));
    this.map(value as Record<string, unknown>, depth);
  }

  private map(value: Record<string, unknown>, depth: number): void {
    const keys = Object.keys(value);
    const countAt = this.at;
    let count = keys.length;
    this.head(count, 0x80, 0xde);
    const body = this.at;
    for (const key of keys) {
      const item = value[key];
      if (item === undefined) {
        count -= 1;
        continue;
      }
      this.path.push(key);
      this.string(key);
      this.value(item, depth + 1);
      this.path.pop();
    }
    if (count !== keys.length) {
      // Absent members were counted: the head is written again, in the same size.
      const size = body - countAt;
      if (size === 1) {
        this.bytes[countAt] = 0x80 | count;
      } else if (size === 3) {
        this.view.setUint16(countAt + 1, count);
      } else {
        this.view.setUint32(countAt + 1, count);
      }
    }
  }

  private array(value: readonly unknown[], depth: number): void {
    const length = value.length;
    this.head(length, 0x90, 0xdc);
    for (let i = 0; i < length; i++) {
      const item = value[i];
      if (typeof item === "number") {
        this.number(item);
        continue;
      }
      this.path.push(i);
      this.value(item, depth + 1);
      this.path.pop();
    }
  }

  private bigint(value: bigint): void {
    this.reserve(9);
    if (value >= -(2n ** 63n) && value < 2n ** 64n) {
      this.bytes[this.at] = value < 0n ? 0xd3 : 0xcf;
      this.view.setBigUint64(this.at + 1, BigInt.asUintN(64, value));
      this.at += 9;
      return;
    }
    const digits = twosComplement(value);
    this.extension(Extension.bigint, () => {
      this.reserve(digits.length / 2);
      this.at += this.bytes.write(digits, this.at, "hex");
    });
  }

  private string(value: string): void {
    const length = value.length;
    if (length < SHORT) {
      this.reserve(length + 1);
      const start = this.at;
      let at = start + 1;
      let i = 0;
      for (; i < length; i++) {
        const code = value.charCodeAt(i);
        if (code > 127) {
          break;
        }
        this.bytes[at++] = code;
      }
      if (i === length) {
        this.bytes[start] = 0xa0 | length;
        this.at = at;
        return;
      }
    }
    this.refuseIf(whyNotText(value));
    this.reserve(length * 3 + 5);
    if (length * 3 < 65_536) {
      const written = this.bytes.write(value, this.at + 3);
      this.bytes[this.at] = 0xda;
      this.view.setUint16(this.at + 1, written);
      this.at += written + 3;
    } else {
      const written = this.bytes.write(value, this.at + 5);
      this.bytes[this.at] = 0xdb;
      this.view.setUint32(this.at + 1, written);
      this.at += written + 5;
    }
  }

  private date(value: Date): void {
    const milliseconds = value.getTime();
    this.refuseIf(whyNotDate(milliseconds));
    const seconds = Math.floor(milliseconds / 1000);
    this.reserve(15);
    this.view.setUint16(this.at, 0xc7_0c);
    this.bytes[this.at + 2] = 0xff;
    this.view.setUint32(this.at + 3, (milliseconds - seconds * 1000) * 1_000_000);
    this.view.setBigInt64(this.at + 7, BigInt(seconds));
    this.at += 15;
  }

  private bytesOrArray(value: ArrayBufferView): void {
    if (Buffer.isBuffer(value) || types.isDataView(value)) {
      this.binary(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
      return;
    }
    this.numbers(dtypeOf(value as Uint8Array), [(value as Uint8Array).length], value);
  }

  private binary(value: Uint8Array): void {
    if (this.memory !== undefined && value.byteLength >= BY_ADDRESS) {
      const { address, pin } = this.lend(this.memory, value);
      this.extension(Extension.bytesAt, () => this.array([address, value.byteLength, pin], 0));
      return;
    }
    this.raw(value);
  }

  private numbers(dtype: string, shape: readonly number[], data: ArrayBufferView): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    // Checked here, whatever was when the array was made: its buffer may have been resized since, and Python reads what is told.
    const count = shape.reduce(
      (product, length) => (length >= 0 ? product * length : Number.NaN),
      Number(dtype.slice(2)),
    );
    if (count !== bytes.byteLength || !shape.every(Number.isSafeInteger)) {
      this.refuse(
        `has ${bytes.byteLength} bytes, which do not fill an array of ${dtype} and shape [${shape.join(", ")}]`,
      );
    }
    const shared = types.isSharedArrayBuffer(data.buffer);
    if (this.memory !== undefined && bytes.byteLength > 0 && (shared || bytes.byteLength >= BY_ADDRESS)) {
      const { address, pin } = this.lend(this.memory, bytes);
      this.extension(Extension.arrayAt, () => this.array([dtype, shape, address, pin], 0));
      return;
    }
    this.extension(Extension.array, () => {
      this.byte(0x93);
      this.string(dtype);
      this.array(shape, 0);
      this.raw(bytes);
    });
  }

  private lend(memory: SharedMemory, bytes: Uint8Array): { address: bigint; pin: number } {
    const lent = memory.lend(bytes);
    this.pins ??= [];
    this.pins.push(lent.pin);
    this.lentBytes += bytes.byteLength;
    return lent;
  }

  private extension(type: number, write: () => void): void {
    this.reserve(6);
    const start = this.at;
    this.at += 6;
    write();
    this.bytes[start] = 0xc9;
    this.view.setUint32(start + 1, this.at - start - 6);
    this.bytes[start + 5] = type;
  }

  private refuseIf(why: string | undefined): void {
    if (why !== undefined) {
      this.refuse(why);
    }
  }

  private refuse(why: string): never {
    throw new BridgeArgumentError(told(this.path), why);
  }
}
