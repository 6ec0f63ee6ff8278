/**
 * Frames as they travel: `<u32 size of the rest> <u8 kind> <u32 call> <msgpack body>`. The Python half of it is
 * `everloop_bridge/wire.py`, which also tells how memory of one side is lent to the other.
 */

import type { Socket } from "node:net";

export const HEAD_SIZE = 9;

/** What Node asks. */
export const Ask = { call: 0, cancel: 1, warmup: 2, release: 3, listen: 4, close: 5 } as const;

/** What Python answers. */
export const Answer = {
  result: 16,
  failed: 17,
  cancelled: 18,
  hello: 19,
  released: 20,
  closed: 21,
  unread: 22,
} as const;

/**
 * Extension types: array in the frame, array elsewhere in this process, integer beyond 64 bits, bytes elsewhere, and a call's
 * arguments of which some are undefined.
 */
export const Extension = { array: 1, arrayAt: 2, bigint: 3, bytesAt: 4, named: 5 } as const;

/** From this many bytes on, arrays go by address (within one process). */
export const BY_ADDRESS = 32_768;

/** What arrives may be in a buffer of this size that is written again: what is kept of it is copied. */
export const REUSED_BUFFER = 65_536;

/** The way to Python. */
export interface Link {
  socket: Socket;
  /** Give what arrives to `to`, in a buffer that may be written again once `to` returns. */
  reading(to: (data: Buffer) => void): void;
  /** Hand over what the system takes at once, past the socket's own queue, which must be empty; returns how much that was. */
  writeNow?(bytes: Buffer): number;
}

/** The members of a call's arguments that are undefined: they are not sent, but they say that the object's keys are names. */
export function absentIn(args: unknown): string[] {
  if (typeof args !== "object" || args === null || Array.isArray(args) || ArrayBuffer.isView(args)) {
    return [];
  }
  return Object.keys(args).filter((key) => (args as Record<string, unknown>)[key] === undefined);
}

/** An integer of any size as big-endian bytes, in hexadecimal; its sign is the first bit. */
export function twosComplement(value: bigint): string {
  const digits = (value < 0n ? -value : value).toString(16).length;
  const size = (digits >> 1) + 1;
  return BigInt.asUintN(size * 8, value)
    .toString(16)
    .padStart(size * 2, "0");
}

/** What Python says of itself when a connection opens. */
export interface Hello {
  version: string;
  executable: string;
  prefix: string;
  pid: number;
  error?: string;
  traceback?: string;
}

/** Memory that both languages see, because they are one process. */
export interface SharedMemory {
  /** Keep these bytes until Python says that it no longer looks at them; returns their address and the pin that it names. */
  lend(bytes: Uint8Array): { address: bigint; pin: number };
  /** Python has no view of these any more. */
  released(pins: readonly number[]): void;
  /** A copy of Python's memory. */
  copy(address: number | bigint, size: number): ArrayBuffer;
}
