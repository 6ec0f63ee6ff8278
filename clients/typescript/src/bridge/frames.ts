/** Whole frames out of the pieces in which a socket gives them; a piece's memory may be written again afterwards. */

import { HEAD_SIZE } from "./wire.js";

/** The frame is `data` from `start` to `end`; its body begins HEAD_SIZE after `start`. */
export type TakeFrame = (kind: number, number: number, data: Buffer, start: number, end: number) => void;

export class Frames {
  private chunks: Buffer[] = [];
  private received = 0;
  private whole = HEAD_SIZE;

  /** A large frame is put together once, when its last piece is there. */
  add(piece: Buffer, take: TakeFrame): void {
    let data = piece;
    if (this.chunks.length > 0) {
      this.chunks.push(Buffer.from(piece));
      this.received += piece.length;
      if (this.received < this.whole) {
        return;
      }
      data = Buffer.concat(this.chunks, this.received);
      this.chunks = [];
    }
    let at = 0;
    while (at + HEAD_SIZE <= data.length) {
      const end = at + 4 + data.readUInt32LE(at);
      if (end > data.length) {
        break;
      }
      const start = at;
      at = end;
      take(data[start + 4] as number, data.readUInt32LE(start + 5), data, start, end);
    }
    if (at < data.length) {
      const rest = Buffer.from(data.subarray(at));
      this.whole = rest.length >= HEAD_SIZE ? rest.readUInt32LE(0) + 4 : HEAD_SIZE;
      this.chunks.push(rest);
      this.received = rest.length;
    }
  }
}
