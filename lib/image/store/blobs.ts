/** Layers on the way from a source to the disk: fetched once, and nothing is believed. */
import { createHash, randomUUID } from 'node:crypto';
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { abortedError, EmbervmError, ImageError } from '../../errors.js';
import { isMissing, syncDirectory } from '../../state/durable.js';
import type { ImageSource, LayerDescriptor } from '../source.js';
import { type Packing, packingOf, unpacked } from './decompress.js';
import { badBlob, storeWriteError } from './errors.js';
import { withLock } from './mutex.js';
import { blobPath, hexOf, storeFolder } from './places.js';
import type { LayerProgress } from './progress.js';
import { writeAll } from './tar-writer.js';

const OWNER_ONLY = 0o600;
const MAGIC_BYTES = 4;
/** A source that gives nothing more for so many times in a row has failed. */
const MAX_IDLE_ATTEMPTS = 3;
/** Small writes are gathered: registries send chunks as they come off the wire. */
const BUFFER_BYTES = 1024 * 1024;

export interface FetchContext {
  source: ImageSource;
  /** A directory of this pull's own. */
  scratch: string;
  signal: AbortSignal | undefined;
}

/** Has the blob of a layer in the store; false where it was there already. */
export async function fetchBlob(
  layer: LayerDescriptor,
  { source, scratch, signal }: FetchContext,
  progress: LayerProgress,
): Promise<boolean> {
  const path = blobPath(layer.digest);
  if (await hasBlob(layer)) return false;
  return withLock(`blob-${hexOf(layer.digest)}`, signal, async () => {
    if (await hasBlob(layer)) return false;
    progress.started();
    const incoming = join(scratch, randomUUID());
    try {
      await storeFolder('blobs');
      await download(layer, incoming, source, signal, progress);
      await rename(incoming, path);
      await syncDirectory(dirname(path));
    } catch (error) {
      throw storeWriteError('store', path, error);
    } finally {
      await rm(incoming, { force: true });
    }
    return true;
  });
}

async function hasBlob({ digest, size }: LayerDescriptor): Promise<boolean> {
  try {
    return (await stat(blobPath(digest))).size === size;
  } catch (error) {
    if (isMissing(error)) return false;
    throw storeWriteError('look at', blobPath(digest), error);
  }
}

async function download(
  layer: LayerDescriptor,
  path: string,
  source: ImageSource,
  signal: AbortSignal | undefined,
  progress: LayerProgress,
): Promise<void> {
  const hash = createHash('sha256');
  const receive = async (write: (chunk: Uint8Array) => Promise<void>): Promise<void> => {
    let received = 0;
    for (let idle = 0; received < layer.size || received === 0; ) {
      const before = received;
      let failure: unknown;
      try {
        const body = await source.openBlob(layer, { offset: received, signal });
        for await (const chunk of body) {
          received += chunk.length;
          if (received > layer.size)
            throw badBlob('ERR_IMAGE_SIZE', layer.digest, tooLong(layer.size));
          hash.update(chunk);
          await write(chunk);
          progress.received(received);
        }
      } catch (error) {
        if (signal?.aborted) throw abortedError(signal, 'pulling an image');
        if (isFinal(error)) throw error;
        failure = error;
      }
      if (received === layer.size && failure === undefined) break;
      idle = received > before ? 0 : idle + 1;
      if (idle < MAX_IDLE_ATTEMPTS) continue;
      throw (
        failure ??
        badBlob('ERR_IMAGE_SIZE', layer.digest, `it ends after ${received} of ${layer.size} bytes`)
      );
    }
  };
  await writing(path, receive, { durable: true });
  const actual = `sha256:${hash.digest('hex')}`;
  if (actual !== layer.digest)
    throw badBlob('ERR_IMAGE_DIGEST', layer.digest, `its digest is ${actual}`);
}

/** What was said by the source or by us is as true the next time; what a socket said is not. */
function isFinal(error: unknown): boolean {
  if (error instanceof EmbervmError) return true;
  const { syscall } = error as NodeJS.ErrnoException;
  return syscall === 'write' || syscall === 'open';
}

function tooLong(size: number): string {
  return `it has more than the ${size} bytes that its manifest says`;
}

export interface UnpackedLayer {
  /** A tar archive. */
  path: string;
  bytes: number;
}

/**
 * The blob of a layer as a tar archive: itself where it is one, else made at `path`; without a
 * `path` it is only counted and checked.
 */
export async function unpackBlob(
  layer: LayerDescriptor,
  path: string | undefined,
  maxBytes: number,
  signal: AbortSignal | undefined,
): Promise<UnpackedLayer> {
  const blob = blobPath(layer.digest);
  const packing = await packingOfFile(blob);
  if (packing === 'none' && layer.diffId === layer.digest) {
    if (layer.size > maxBytes) throw tooLarge(layer.digest, maxBytes);
    return { path: blob, bytes: layer.size };
  }
  const hash = createHash('sha256');
  let bytes = 0;
  const unpack = async (write: (chunk: Uint8Array) => Promise<void>): Promise<void> => {
    for await (const chunk of unpacked(blob, packing)) {
      if (signal?.aborted) throw abortedError(signal, 'unpacking a layer');
      bytes += chunk.length;
      if (bytes > maxBytes) throw tooLarge(layer.digest, maxBytes);
      hash.update(chunk);
      await write(chunk);
    }
  };
  try {
    if (path === undefined) await unpack(async () => {});
    else await writing(path, unpack);
  } catch (error) {
    throw unpackError(layer.digest, path ?? blob, error);
  }
  const actual = `sha256:${hash.digest('hex')}`;
  if (actual === layer.diffId) return { path: path ?? blob, bytes };
  if (path !== undefined) await rm(path, { force: true });
  throw badBlob(
    'ERR_IMAGE_DIGEST',
    layer.digest,
    `unpacked its digest is ${actual}, not ${layer.diffId}`,
  );
}

export async function packingOfFile(path: string): Promise<Packing> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAGIC_BYTES), 0, MAGIC_BYTES, 0);
    return packingOf(buffer.subarray(0, bytesRead));
  } finally {
    await file.close();
  }
}

function unpackError(digest: string, path: string, error: unknown): EmbervmError {
  if (error instanceof EmbervmError) return error;
  const { code = '', syscall, message } = error as NodeJS.ErrnoException;
  if (syscall !== undefined) return storeWriteError('unpack a layer to', path, error);
  return new ImageError('ERR_IMAGE_INVALID', `the layer ${digest} cannot be unpacked: ${message}`, {
    cause: error,
    context: { digest, reason: code },
  });
}

function tooLarge(digest: string, limit: number): ImageError {
  return new ImageError(
    'ERR_IMAGE_LIMIT',
    `the layer ${digest} unpacks to more than the ${limit} bytes that are left of the limit`,
    { context: { digest, limit } },
  );
}

/** Makes a file, which is not there when this rejects. */
async function writing(
  path: string,
  work: (write: (chunk: Uint8Array) => Promise<void>) => Promise<void>,
  options: { durable?: boolean } = {},
): Promise<void> {
  const file = await open(path, 'wx', OWNER_ONLY);
  try {
    const buffered = new BufferedWriter(file);
    await work((chunk) => buffered.write(chunk));
    await buffered.flush();
    if (options.durable) await file.datasync();
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

class BufferedWriter {
  readonly #file: FileHandle;
  readonly #buffer = Buffer.allocUnsafe(BUFFER_BYTES);
  #filled = 0;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  async write(chunk: Uint8Array): Promise<void> {
    if (this.#filled + chunk.length > BUFFER_BYTES) await this.flush();
    if (chunk.length >= BUFFER_BYTES) return writeAll(this.#file, chunk);
    this.#buffer.set(chunk, this.#filled);
    this.#filled += chunk.length;
  }

  async flush(): Promise<void> {
    const bytes = this.#buffer.subarray(0, this.#filled);
    this.#filled = 0;
    await writeAll(this.#file, bytes);
  }
}
