/** Python's answers, from msgpack: integers beyond 2^53 are BigInt, timestamps Date, NumPy arrays typed arrays or `NdArray`. */

import { arrayFrom } from "./arrays.js";
import { BridgeError } from "./errors.js";
import { Extension, REUSED_BUFFER, type SharedMemory } from "./wire.js";

const CACHED_KEYS = 1024;
const CACHED_LENGTH = 32;

/** Decodes one body after another; keeps the strings of object keys, which repeat from answer to answer. */
export class Decoder {
  private bytes: Buffer = Buffer.alloc(0);
  private view = new DataView(this.bytes.buffer);
  private at = 0;
  private found = false;
  private readonly keys: ({ bytes: Uint8Array; text: string } | undefined)[] = new Array(CACHED_KEYS).fill(undefined);

  /** What was decoded last lends memory of Python's, or may: it is to be released. */
  lends = false;

  constructor(private readonly memory?: SharedMemory) {}

  decode(bytes: Buffer, start = 0): unknown {
    if (bytes !== this.bytes) {
      this.bytes = bytes;
      this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    }
    this.at = start;
    this.lends = this.memory !== undefined; // Until it is read to its end.
    this.found = false;
    const value = this.value();
    this.lends = this.found;
    return value;
  }

  private value(): unknown {
    const code = this.view.getUint8(this.at++);
    if (code < 0x80) {
      return code;
    }
    if (code < 0x90) {
      return this.map(code & 15);
    }
    if (code < 0xa0) {
      return this.array(code & 15);
    }
    if (code < 0xc0) {
      return this.string(code & 31);
    }
    if (code >= 0xe0) {
      return code - 256;
    }
    return this.wide(code);
  }

  private wide(code: number): unknown {
    switch (code) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
        return this.binary(this.unsigned(1));
      case 0xc5:
        return this.binary(this.unsigned(2));
      case 0xc6:
        return this.binary(this.unsigned(4));
      case 0xc7:
        return this.extension(this.unsigned(1));
      case 0xc8:
        return this.extension(this.unsigned(2));
      case 0xc9:
        return this.extension(this.unsigned(4));
      case 0xca:
        this.at += 4;
        return this.view.getFloat32(this.at - 4);
      case 0xcb:
        this.at += 8;
        return this.view.getFloat64(this.at - 8);
      case 0xcc:
        return this.unsigned(1);
      case 0xcd:
        return this.unsigned(2);
      case 0xce:
        return this.unsigned(4);
      case 0xcf:
        this.at += 8;
        return exact(this.view.getBigUint64(this.at - 8));
      case 0xd0:
        return this.view.getInt8(this.at++);
      case 0xd1:
        this.at += 2;
        return this.view.getInt16(this.at - 2);
      case 0xd2:
        this.at += 4;
        return this.view.getInt32(this.at - 4);
      case 0xd3:
        this.at += 8;
        return exact(this.view.getBigInt64(this.at - 8));
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return this.extension(1 << (code - 0xd4));
      case 0xd9:
        return this.string(this.unsigned(1));
      case 0xda:
        return this.string(this.unsigned(2));
      case 0xdb:
        return this.string(this.unsigned(4));
      case 0xdc:
        return this.array(this.unsigned(2));
      case 0xdd:
        return this.array(this.unsigned(4));
      case 0xde:
        return this.map(this.unsigned(2));
      case 0xdf:
        return this.map(this.unsigned(4));
      default:
        throw new BridgeError("PROTOCOL", `Python sent the byte 0x${code.toString(16)}, which msgpack does not have`);
    }
  }

  private unsigned(size: 1 | 2 | 4): number {
    const at = this.at;
    this.at += size;
    return size === 1 ? this.view.getUint8(at) : size === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }

  private string(length: number): string {
    const start = this.at;
    this.at += length;
    return this.bytes.toString("utf8", start, this.at);
  }

  private map(count: number): Record<string, unknown> {
    const made: Record<string, unknown> = {};
    let short = true;
    for (let i = 0; i < count; i++) {
      const code = this.view.getUint8(this.at);
      short &&= code >= 0xa0 && code < 0xc0;
      const key = this.key();
      const value = this.value();
      if (key === "__proto__") {
        Object.defineProperty(made, key, { value, enumerable: true, configurable: true, writable: true });
      } else {
        made[key] = value;
      }
    }
    // Short texts cannot meet: Python's dict has each once. A number and its text can.
    if (!short && Object.keys(made).length < count) {
      throw new BridgeError(
        "ANSWER",
        "Python answered a dict of which two keys are one in JavaScript, as 1 and '1' are",
      );
    }
    return made;
  }

  private array(count: number): unknown[] {
    const made = new Array<unknown>(count);
    for (let i = 0; i < count; i++) {
      made[i] = this.value();
    }
    return made;
  }

  private key(): string {
    const code = this.view.getUint8(this.at);
    if (code < 0xa0 || code >= 0xc0) {
      const value = this.value();
      return typeof value === "string" ? value : String(value);
    }
    this.at += 1;
    const length = code & 31;
    if (length >= CACHED_LENGTH) {
      return this.string(length);
    }
    const bytes = this.bytes;
    const start = this.at;
    let hash = length;
    for (let i = 0; i < length; i++) {
      hash = (Math.imul(hash, 31) + (bytes[start + i] as number)) | 0;
    }
    const slot = (hash ^ (hash >>> 10)) & (CACHED_KEYS - 1);
    const known = this.keys[slot];
    if (known !== undefined && same(known.bytes, bytes, start, length)) {
      this.at += length;
      return known.text;
    }
    const text = this.string(length);
    this.keys[slot] = { bytes: Uint8Array.prototype.slice.call(bytes, start, start + length), text };
    return text;
  }

  private binary(length: number): Buffer {
    const start = this.at;
    this.at += length;
    const bytes = this.bytes.subarray(start, this.at);
    return length < REUSED_BUFFER ? Buffer.from(bytes) : bytes;
  }

  private extension(length: number): unknown {
    const type = this.view.getInt8(this.at++);
    const end = this.at + length;
    let value: unknown;
    switch (type) {
      case -1:
        value = this.timestamp(length);
        break;
      case Extension.array: {
        this.at += 1;
        const dtype = this.value() as string;
        const shape = this.value() as number[];
        const bytes = this.value() as Buffer;
        const start = bytes.byteOffset;
        value = arrayFrom(dtype, shape, bytes.buffer.slice(start, start + bytes.byteLength) as ArrayBuffer);
        break;
      }
      case Extension.arrayAt: {
        this.at += 1;
        const dtype = this.value() as string;
        const shape = this.value() as number[];
        const address = this.value() as number | bigint;
        const size = shape.reduce((product, count) => product * count, Number(dtype.slice(2)));
        if (this.memory === undefined) {
          throw new BridgeError("PROTOCOL", "Python sent an address, but it is another process");
        }
        value = arrayFrom(dtype, shape, this.memory.copy(address, size));
        this.found = true;
        break;
      }
      case Extension.bigint: {
        const digits = this.bytes.toString("hex", this.at, end);
        value = BigInt.asIntN(length * 8, BigInt(`0x${digits}`));
        break;
      }
      default:
        throw new BridgeError("PROTOCOL", `Python sent an extension ${type} that this version does not know`);
    }
    this.at = end;
    return value;
  }

  private timestamp(length: number): Date {
    if (length === 4) {
      return new Date(this.view.getUint32(this.at) * 1000);
    }
    if (length === 8) {
      const both = this.view.getBigUint64(this.at);
      return new Date(Number(both & 0x3_ffff_ffffn) * 1000 + Math.floor(Number(both >> 34n) / 1e6));
    }
    const nanoseconds = this.view.getUint32(this.at);
    return new Date(Number(this.view.getBigInt64(this.at + 4)) * 1000 + Math.floor(nanoseconds / 1e6));
  }
}

function exact(value: bigint): number | bigint {
  return value <= Number.MAX_SAFE_INTEGER && value >= Number.MIN_SAFE_INTEGER ? Number(value) : value;
}

function same(known: Uint8Array, bytes: Uint8Array, start: number, length: number): boolean {
  if (known.length !== length) {
    return false;
  }
  for (let i = 0; i < length; i++) {
    if (known[i] !== bytes[start + i]) {
      return false;
    }
  }
  return true;
}
