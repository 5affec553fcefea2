/** Files of others, which may be anything: only regular ones are read, and never without a limit. */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { abortedError, ImageError } from '../../errors.js';

const CHUNK = 256 * 1024;

/** A part of a file. */
export interface Extent {
  readonly file: FileHandle;
  readonly start: number;
  readonly size: number;
}

export function readError(path: string, error: unknown): ImageError {
  const { code, syscall } = error as NodeJS.ErrnoException;
  const missing = code === 'ENOENT' || code === 'ENOTDIR';
  return new ImageError(
    missing ? 'ERR_IMAGE_NOT_FOUND' : 'ERR_IMAGE_READ',
    `${path} cannot be read: ${code}`,
    { cause: error, errno: code, syscall, context: { path } },
  );
}

/** Opens without waiting for whoever might be at the other end of a pipe. */
export async function openRegular(path: string): Promise<Extent> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const facts = await file.stat();
    if (facts.isFile()) return { file, start: 0, size: facts.size };
  } catch (error) {
    await file?.close();
    throw readError(path, error);
  }
  await file.close();
  throw new ImageError('ERR_IMAGE_READ', `${path} is not a regular file`, { context: { path } });
}

/** The bytes from `offset` on; fewer than there should be where the file was cut meanwhile. */
export async function* readExtent(
  extent: Extent,
  path: string,
  offset: number,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  const end = extent.start + extent.size;
  let position = extent.start + offset;
  while (position < end) {
    if (signal?.aborted) throw abortedError(signal, `reading ${path}`);
    // A buffer for each piece: whoever gets it may keep it.
    const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK, end - position));
    let bytesRead: number;
    try {
      ({ bytesRead } = await extent.file.read(buffer, 0, buffer.length, position));
    } catch (error) {
      throw readError(path, error);
    }
    if (bytesRead === 0) return;
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** All of it, when it is no larger than `limit`. */
export async function readSmall(
  extent: Extent,
  path: string,
  limit: number,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  if (extent.size > limit) {
    throw new ImageError('ERR_IMAGE_LIMIT', `${path} has more than ${limit} bytes`, {
      context: { path, limit },
    });
  }
  const chunks: Uint8Array[] = [];
  for await (const chunk of readExtent(extent, path, 0, signal)) chunks.push(chunk);
  return Buffer.concat(chunks);
}
