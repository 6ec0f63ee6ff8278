/** Bytes of msgpack on their way into one buffer that grows and is used again: what has no structure, and heads of what has. */

const FIRST_SIZE = 16_384;
const KEPT_SIZE = 1 << 20;

export class Writer {
  protected bytes = Buffer.allocUnsafeSlow(FIRST_SIZE);
  protected view = new DataView(this.bytes.buffer);
  protected at = 0;

  get size(): number {
    return this.at;
  }

  /** The frames so far, in memory that the next frame overwrites once they are cleared. */
  look(): Buffer {
    return this.bytes.subarray(0, this.at);
  }

  clear(): void {
    this.at = 0;
    if (this.bytes.length > KEPT_SIZE) {
      this.allocate(KEPT_SIZE);
    }
  }

  /** The frames so far, as bytes that nobody else writes to. */
  take(): Buffer {
    const taken = this.look();
    this.at = 0;
    if (taken.length <= FIRST_SIZE) {
      return Buffer.from(taken);
    }
    this.allocate(Math.min(KEPT_SIZE, this.bytes.length));
    return taken;
  }

  /** The head of a map or array: `fixed` holds up to 15, `wide` is its 16-bit form, and the next code its 32-bit one. */
  protected head(count: number, fixed: number, wide: number): void {
    this.reserve(5);
    if (count < 16) {
      this.bytes[this.at++] = fixed | count;
    } else if (count < 65_536) {
      this.bytes[this.at] = wide;
      this.view.setUint16(this.at + 1, count);
      this.at += 3;
    } else {
      this.bytes[this.at] = wide + 1;
      this.view.setUint32(this.at + 1, count);
      this.at += 5;
    }
  }

  protected byte(byte: number): void {
    this.reserve(1);
    this.bytes[this.at++] = byte;
  }

  protected number(value: number): void {
    this.reserve(9);
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      this.bytes[this.at] = 0xcb;
      this.view.setFloat64(this.at + 1, value);
      this.at += 9;
    } else if (value >= 0 && value < 128) {
      this.bytes[this.at++] = value;
    } else if (value < 0 && value >= -32) {
      this.bytes[this.at++] = value + 256;
    } else if (value >= -2_147_483_648 && value <= 2_147_483_647) {
      this.bytes[this.at] = 0xd2;
      this.view.setInt32(this.at + 1, value);
      this.at += 5;
    } else {
      this.bytes[this.at] = 0xd3;
      this.view.setBigInt64(this.at + 1, BigInt(value));
      this.at += 9;
    }
  }

  protected raw(bytes: Uint8Array): void {
    this.reserve(bytes.byteLength + 5);
    this.bytes[this.at] = 0xc6;
    this.view.setUint32(this.at + 1, bytes.byteLength);
    this.bytes.set(bytes, this.at + 5);
    this.at += bytes.byteLength + 5;
  }

  protected reserve(more: number): void {
    if (this.at + more > this.bytes.length) {
      const old = this.bytes;
      this.allocate(Math.max(old.length * 2, this.at + more));
      this.bytes.set(old.subarray(0, this.at));
    }
  }

  protected allocate(size: number): void {
    this.bytes = Buffer.allocUnsafeSlow(size);
    this.view = new DataView(this.bytes.buffer);
  }
}
