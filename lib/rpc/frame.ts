/**
 * Frames of ttrpc: a 10-byte header (u32 length, u32 stream id, u8 type,
 * u8 flags, big-endian) and its data. Pure; every byte comes from a guest.
 */
import { RpcError } from '../errors.js';

export const HEADER_BYTES = 10;
/** The protocol's limit of the data of one frame. */
export const MAX_DATA_BYTES: number = 4 << 20;
/** First room for a frame that comes in pieces; it doubles as the bytes really arrive. */
const FIRST_ROOM = 16 * 1024;

export const frameType = { request: 1, response: 2, data: 3 } as const;
export const frameFlag = { remoteClosed: 1, remoteOpen: 2, noData: 4 } as const;

export interface Frame {
  streamId: number;
  type: number;
  flags: number;
  data: Uint8Array;
}

/** A frame above the limit. Its data is dropped as it arrives; the connection goes on. */
export interface OversizedFrame {
  streamId: number;
  type: number;
  flags: number;
  /** The length that the header claims. */
  oversized: number;
}

export type DecodedFrame = Frame | OversizedFrame;

export function isOversized(frame: DecodedFrame): frame is OversizedFrame {
  return 'oversized' in frame;
}

/** Header of a frame with `length` bytes of data; throws where no peer would take it. */
export function encodeHeader(frame: Omit<Frame, 'data'>, length: number): Buffer {
  if (length > MAX_DATA_BYTES) {
    throw new RpcError(
      'ERR_RPC_RESOURCE_EXHAUSTED',
      `a message of ${length} bytes is above the protocol's limit of ${MAX_DATA_BYTES}`,
      { context: { length, limit: MAX_DATA_BYTES } },
    );
  }
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  header.writeUInt32BE(length, 0);
  header.writeUInt32BE(frame.streamId, 4);
  header.writeUInt8(frame.type, 8);
  header.writeUInt8(frame.flags, 9);
  return header;
}

export function encodeFrame(frame: Frame): Buffer {
  return Buffer.concat([encodeHeader(frame, frame.data.length), frame.data]);
}

/** Cuts a byte stream into frames. Holds at most one frame, and no more than has arrived. */
export class FrameDecoder {
  readonly #header = Buffer.alloc(HEADER_BYTES);
  #headerBytes = 0;
  #frame: { head: Omit<Frame, 'data'>; length: number } | undefined;
  #body = Buffer.alloc(0);
  #bodyBytes = 0;
  #skip = 0;

  /** The frames that `chunk` completes. Their data may share memory with it. */
  push(chunk: Uint8Array): DecodedFrame[] {
    const frames: DecodedFrame[] = [];
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#skip > 0) rest = this.#drop(rest);
      else if (this.#frame === undefined) rest = this.#takeHeader(rest, frames);
      else rest = this.#takeBody(rest, frames);
    }
    return frames;
  }

  #drop(rest: Uint8Array): Uint8Array {
    const count = Math.min(this.#skip, rest.length);
    this.#skip -= count;
    return rest.subarray(count);
  }

  #takeHeader(rest: Uint8Array, frames: DecodedFrame[]): Uint8Array {
    const count = Math.min(HEADER_BYTES - this.#headerBytes, rest.length);
    this.#header.set(rest.subarray(0, count), this.#headerBytes);
    this.#headerBytes += count;
    if (this.#headerBytes === HEADER_BYTES) this.#beginFrame(frames);
    return rest.subarray(count);
  }

  #beginFrame(frames: DecodedFrame[]): void {
    this.#headerBytes = 0;
    const length = this.#header.readUInt32BE(0);
    const head = {
      streamId: this.#header.readUInt32BE(4),
      type: this.#header.readUInt8(8),
      flags: this.#header.readUInt8(9),
    };
    if (length > MAX_DATA_BYTES) {
      this.#skip = length;
      frames.push({ ...head, oversized: length });
    } else if (length === 0) {
      frames.push({ ...head, data: new Uint8Array() });
    } else {
      this.#frame = { head, length };
    }
  }

  #takeBody(rest: Uint8Array, frames: DecodedFrame[]): Uint8Array {
    const frame = this.#frame;
    if (frame === undefined) return rest;
    const count = Math.min(frame.length - this.#bodyBytes, rest.length);
    const piece = rest.subarray(0, count);
    if (count === frame.length) {
      frames.push({ ...frame.head, data: piece });
      this.#frame = undefined;
    } else {
      this.#append(piece, frame.length);
      if (this.#bodyBytes === frame.length) {
        frames.push({ ...frame.head, data: this.#body.subarray(0, frame.length) });
        this.#frame = undefined;
        this.#body = Buffer.alloc(0);
        this.#bodyBytes = 0;
      }
    }
    return rest.subarray(count);
  }

  /** Copies: a frame in a thousand pieces must not hold a thousand buffers. */
  #append(piece: Uint8Array, length: number): void {
    const needed = this.#bodyBytes + piece.length;
    if (needed > this.#body.length) {
      const room = Math.min(length, Math.max(FIRST_ROOM, needed, 2 * this.#body.length));
      const grown = Buffer.allocUnsafeSlow(room);
      this.#body.copy(grown, 0, 0, this.#bodyBytes);
      this.#body = grown;
    }
    this.#body.set(piece, this.#bodyBytes);
    this.#bodyBytes = needed;
  }
}
