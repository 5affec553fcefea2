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
/** What of a block is zero stays a hole, in pieces of this size. */
const PAGE_BYTES = 4096;
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

/** What was given to be decoded is no such stream. */
export class SparseFormatError extends Error {}

/**
 * The other way: fills `file`, which is empty, and has `bytes` then. Exactly the streams that
 * `encodeSparse` makes are taken, so a file has one of them, and one digest.
 */
export async function decodeSparse(
  content: AsyncIterable<Uint8Array>,
  file: FileHandle,
  bytes: number,
): Promise<SparseDigest> {
  const hash = createHash('sha256');
  const record = Buffer.allocUnsafe(OFFSET_BYTES + BLOCK_BYTES);
  let filled = 0;
  let wanted = OFFSET_BYTES;
  let next = 0;
  let storedBytes = 0;
  await file.truncate(bytes);
  for await (const chunk of content) {
    hash.update(chunk);
    storedBytes += chunk.length;
    for (let at = 0; at < chunk.length; ) {
      const taken = Math.min(wanted - filled, chunk.length - at);
      record.set(chunk.subarray(at, at + taken), filled);
      at += taken;
      filled += taken;
      if (filled < wanted) break;
      const offset = Number(record.readBigUInt64LE());
      if (wanted === OFFSET_BYTES) {
        if (offset % BLOCK_BYTES !== 0 || offset < next || offset >= bytes) {
          throw new SparseFormatError(`a block of it is for offset ${offset}`);
        }
        next = offset + BLOCK_BYTES;
        wanted += Math.min(BLOCK_BYTES, bytes - offset);
      } else {
        const block = record.subarray(OFFSET_BYTES, wanted);
        if (isZero(block)) throw new SparseFormatError(`its block for offset ${offset} is empty`);
        await writeSparse(file, block, offset);
        filled = 0;
        wanted = OFFSET_BYTES;
      }
    }
  }
  if (filled > 0) throw new SparseFormatError('it ends within a block');
  return { bytes, storedBytes, sha256: hash.digest('hex') };
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

function isZero(block: Buffer): boolean {
  return block.equals(ZEROS.subarray(0, block.length));
}

/** Runs of pages that have anything. */
async function writeSparse(file: FileHandle, block: Buffer, offset: number): Promise<void> {
  for (let at = 0; at < block.length; ) {
    let end = at;
    while (end < block.length && !isZero(block.subarray(end, end + PAGE_BYTES))) end += PAGE_BYTES;
    if (end > at) await writeAll(file, block.subarray(at, end), offset + at);
    at = end + PAGE_BYTES;
  }
}

async function writeAll(file: FileHandle, from: Buffer, position: number): Promise<void> {
  for (let done = 0; done < from.length; ) {
    const { bytesWritten } = await file.write(from, done, from.length - done, position + done);
    done += bytesWritten;
  }
}

async function readAll(file: FileHandle, into: Buffer, position: number): Promise<void> {
  let done = 0;
  while (done < into.length) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw new Error('it became shorter while it was read');
    done += bytesRead;
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
