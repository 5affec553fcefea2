/** Layers as tar archives, however they are packed. What they are is told by their first bytes. */
import { createReadStream } from 'node:fs';
import type { Transform } from 'node:stream';
import zlib from 'node:zlib';
import { ImageError } from '../../errors.js';

export type Packing = 'none' | 'gzip' | 'zstd';

const CHUNK_BYTES = 256 * 1024;
const GZIP_MAGIC = [0x1f, 0x8b];
const ZSTD_MAGIC = [0x28, 0xb5, 0x2f, 0xfd];

/** Missing in the oldest versions of Node that we support. */
type ZstdFactory = (options: { chunkSize: number }) => Transform;

export function packingOf(head: Uint8Array): Packing {
  if (GZIP_MAGIC.every((byte, at) => head[at] === byte)) return 'gzip';
  if (ZSTD_MAGIC.every((byte, at) => head[at] === byte)) return 'zstd';
  return 'none';
}

/** The unpacked bytes of the file. Whoever reads them has to bound them. */
export async function* unpacked(path: string, packing: Packing): AsyncGenerator<Uint8Array> {
  const source = createReadStream(path, { highWaterMark: CHUNK_BYTES });
  if (packing === 'none') {
    yield* source;
    return;
  }
  const decoder = await decoderOf(packing);
  source.on('error', (error) => decoder.destroy(error));
  try {
    yield* source.pipe(decoder);
  } finally {
    source.destroy();
    decoder.destroy();
  }
}

async function decoderOf(packing: 'gzip' | 'zstd'): Promise<Transform> {
  if (packing === 'gzip') return zlib.createGunzip({ chunkSize: CHUNK_BYTES });
  const { createZstdDecompress } = zlib as { createZstdDecompress?: ZstdFactory };
  if (createZstdDecompress !== undefined) return createZstdDecompress({ chunkSize: CHUNK_BYTES });
  throw new ImageError(
    'ERR_IMAGE_INVALID',
    'a layer is packed with zstd, which needs Node 22.15 or later. Use a later Node, or an image ' +
      'with gzip layers',
  );
}
