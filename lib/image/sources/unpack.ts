/** Packed archives: their files can only be found again in an unpacked copy, which has no name. */
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { EmbervmError, ImageError } from '../../errors.js';
import { type Extent, openRegular, readExtent, readSmall } from './regular-file.js';

const MAX_UNPACKED = 64 * 1024 ** 3;
const packings: readonly [string, Buffer][] = [
  ['gzip', Buffer.from([0x1f, 0x8b])],
  ['zstd', Buffer.from([0x28, 0xb5, 0x2f, 0xfd])],
  ['xz', Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a])],
  ['bzip2', Buffer.from('BZh')],
];

/** Opens an archive; what is packed with gzip is unpacked to `scratchDir` first. */
export async function openArchive(
  path: string,
  scratchDir: string = tmpdir(),
  signal?: AbortSignal,
): Promise<Extent> {
  const archive = await openRegular(path);
  try {
    const head = await readSmall({ ...archive, size: Math.min(archive.size, 8) }, path, 8);
    const packing = packings.find(([, magic]) => magic.equals(head.subarray(0, magic.length)))?.[0];
    if (packing === undefined) return archive;
    if (packing !== 'gzip') {
      throw new ImageError('ERR_IMAGE_INVALID', `${path} is packed with ${packing}: unpack it`, {
        context: { path },
      });
    }
    const unpacked = await gunzip(archive, path, scratchDir, signal);
    await archive.file.close();
    return unpacked;
  } catch (error) {
    await archive.file.close().catch(() => {});
    throw error;
  }
}

async function gunzip(
  archive: Extent,
  path: string,
  scratchDir: string,
  signal?: AbortSignal,
): Promise<Extent> {
  const directory = await mkdtemp(join(scratchDir, 'embervm-archive-')).catch((error) => {
    throw writeError(scratchDir, error);
  });
  // The file loses its name at once, so it is gone with its descriptor, whatever happens.
  const file = await open(join(directory, 'archive.tar'), 'wx+', 0o600).finally(() =>
    rm(directory, { recursive: true, force: true }),
  );
  let size = 0;
  try {
    const packed = Readable.from(readExtent(archive, path, 0, signal), { objectMode: false });
    const unpacker = createGunzip({ chunkSize: 256 * 1024 });
    packed.on('error', (error) => unpacker.destroy(error));
    for await (const chunk of packed.pipe(unpacker) as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > MAX_UNPACKED) {
        throw new ImageError('ERR_IMAGE_LIMIT', `${path} unpacks to more than 64 GiB`, {
          context: { path, limit: MAX_UNPACKED },
        });
      }
      await file.writeFile(chunk).catch((error) => {
        throw writeError(scratchDir, error);
      });
    }
    return { file, start: 0, size };
  } catch (error) {
    await file.close();
    if (error instanceof EmbervmError) throw error;
    throw new ImageError('ERR_IMAGE_INVALID', `${path} is damaged or cut off`, {
      cause: error,
      context: { path },
    });
  }
}

function writeError(directory: string, error: unknown): ImageError {
  const { code, syscall } = error as NodeJS.ErrnoException;
  return new ImageError('ERR_IMAGE_WRITE', `${directory} has no room to unpack to: ${code}`, {
    cause: error,
    errno: code,
    syscall,
    context: { path: directory },
  });
}
