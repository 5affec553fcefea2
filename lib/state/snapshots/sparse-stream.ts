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

function isZero(block: Buffer): boolean {
  return block.equals(ZEROS.subarray(0, block.length));
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
