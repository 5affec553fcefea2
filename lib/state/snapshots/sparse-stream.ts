/**
 * The content of a file without its zeros: for each block that has anything else, its offset as
 * u64 (little-endian) and its bytes. What is a hole on one disk and a zero on another gives the
 * same stream, so its digest is the file's.
 */
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import { abortedError, fromNative } from '../../errors.js';
import { loadBinding } from '../../native/binding.js';

const BLOCK_BYTES = 64 * 1024;
const OFFSET_BYTES = 8;
const ZEROS: Buffer = Buffer.alloc(BLOCK_BYTES);

export interface SparseDigest {
  bytes: number;
  storedBytes: number;
  sha256: string;
}

export async function* encodeSparse(
  file: FileHandle,
  bytes: number,
  signal?: AbortSignal,
): AsyncGenerator<Buffer, void, void> {
  let at = 0;
  for (;;) {
    const data = nextData(file.fd, at, bytes);
    if (data === undefined) return;
    at = Math.floor(data.begin / BLOCK_BYTES) * BLOCK_BYTES;
    while (at < data.end) {
      if (signal?.aborted) throw abortedError(signal, 'reading a snapshot');
      const length = Math.min(BLOCK_BYTES, bytes - at);
      const record = Buffer.allocUnsafe(OFFSET_BYTES + length);
      record.writeBigUInt64LE(BigInt(at));
      await readAll(file, record.subarray(OFFSET_BYTES), at);
      if (!isZero(record.subarray(OFFSET_BYTES))) yield record;
      at += length;
    }
  }
}

/** Reads the file at `path`. */
export async function digestOf(path: string, signal?: AbortSignal): Promise<SparseDigest> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const hash = createHash('sha256');
    let storedBytes = 0;
    for await (const record of encodeSparse(file, size, signal)) {
      hash.update(record);
      storedBytes += record.length;
    }
    return { bytes: size, storedBytes, sha256: hash.digest('hex') };
  } finally {
    await file.close();
  }
}

/** What is wrong with a stream that somebody made. */
export class SparseStreamError extends Error {}

/**
 * Writes a stream into `file`, which is empty, and makes it `bytes` long. Takes only what
 * `encodeSparse` makes: blocks in order, in their places, none of them zero.
 */
export async function decodeSparse(
  source: AsyncIterable<Uint8Array>,
  file: FileHandle,
  bytes: number,
): Promise<SparseDigest> {
  const hash = createHash('sha256');
  const record = Buffer.allocUnsafe(OFFSET_BYTES + BLOCK_BYTES);
  let filled = 0;
  let next = 0;
  let storedBytes = 0;
  await file.truncate(bytes);
  for await (const chunk of source) {
    hash.update(chunk);
    storedBytes += chunk.length;
    let taken = 0;
    while (taken < chunk.length) {
      const wanted = filled < OFFSET_BYTES ? OFFSET_BYTES : recordBytes(record, next, bytes);
      const count = Math.min(wanted - filled, chunk.length - taken);
      record.set(chunk.subarray(taken, taken + count), filled);
      filled += count;
      taken += count;
      if (filled === OFFSET_BYTES) recordBytes(record, next, bytes);
      if (filled <= OFFSET_BYTES || filled < recordBytes(record, next, bytes)) continue;
      const block = record.subarray(OFFSET_BYTES, filled);
      if (isZero(block)) throw new SparseStreamError('a block is zero');
      const offset = Number(record.readBigUInt64LE());
      await writeAll(file, block, offset);
      next = offset + BLOCK_BYTES;
      filled = 0;
    }
  }
  if (filled > 0) throw new SparseStreamError('it ends within a block');
  return { bytes, storedBytes, sha256: hash.digest('hex') };
}

/** Of the record whose offset is known, which must not be before `next`. */
function recordBytes(record: Buffer, next: number, bytes: number): number {
  const offset = Number(record.readBigUInt64LE());
  if (offset % BLOCK_BYTES !== 0 || offset < next || offset >= bytes) {
    throw new SparseStreamError('a block is not in its place');
  }
  return OFFSET_BYTES + Math.min(BLOCK_BYTES, bytes - offset);
}

function isZero(block: Buffer): boolean {
  return block.equals(ZEROS.subarray(0, block.length));
}

async function readAll(file: FileHandle, into: Buffer, position: number): Promise<void> {
  let done = 0;
  while (done < into.length) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw new SparseStreamError('it became shorter while it was read');
    done += bytesRead;
  }
}

async function writeAll(file: FileHandle, data: Buffer, position: number): Promise<void> {
  let done = 0;
  while (done < data.length) {
    const { bytesWritten } = await file.write(data, done, data.length - done, position + done);
    done += bytesWritten;
  }
}

function nextData(
  fd: number,
  from: number,
  size: number,
): { begin: number; end: number } | undefined {
  try {
    return loadBinding().nextData(fd, from, size);
  } catch (error) {
    throw fromNative(error);
  }
}
