/** Layers as tar archives, however they are packed. What they are is told by their first bytes. */
import { createReadStream } from 'node:fs';
import type { Readable, Transform } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import zlib from 'node:zlib';

export type Packing = 'none' | 'gzip' | 'zstd';

const CHUNK_BYTES = 256 * 1024;
const GZIP_MAGIC = [0x1f, 0x8b];
const ZSTD_MAGIC = [0x28, 0xb5, 0x2f, 0xfd];

const ZSTD_PIECE_BYTES = 32 * 1024;

/** Missing in Node before 22.15. */
const zstd = (zlib as { createZstdDecompress?: (options: { chunkSize: number }) => Transform })
  .createZstdDecompress;

export function packingOf(head: Uint8Array): Packing {
  if (GZIP_MAGIC.every((byte, at) => head[at] === byte)) return 'gzip';
  if (ZSTD_MAGIC.every((byte, at) => head[at] === byte)) return 'zstd';
  return 'none';
}

/** The unpacked bytes of the file. Whoever reads them has to bound them. */
export async function* unpacked(path: string, packing: Packing): AsyncGenerator<Uint8Array> {
  const source = createReadStream(path, { highWaterMark: CHUNK_BYTES });
  if (packing === 'none') yield* source;
  else if (packing === 'gzip')
    yield* through(source, zlib.createGunzip({ chunkSize: CHUNK_BYTES }));
  else if (zstd !== undefined) yield* through(source, zstd({ chunkSize: CHUNK_BYTES }));
  else yield* unpackZstd(source);
}

async function* through(source: Readable, decoder: Transform): AsyncGenerator<Uint8Array> {
  source.on('error', (error) => decoder.destroy(error));
  try {
    yield* source.pipe(decoder);
  } finally {
    source.destroy();
    decoder.destroy();
  }
}

/** In JavaScript, in pieces that hold up the event loop for a few milliseconds each. */
async function* unpackZstd(source: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
  const { Decompress } = await import('fzstd');
  let out: Uint8Array[] = [];
  const decoder = new Decompress((data) => out.push(data));
  for await (const chunk of source) {
    for (let at = 0; at < chunk.length; at += ZSTD_PIECE_BYTES) {
      decoder.push(chunk.subarray(at, at + ZSTD_PIECE_BYTES));
      const ready = out;
      out = [];
      yield* ready;
      await nextTurn();
    }
  }
  decoder.push(new Uint8Array(0), true);
  yield* out;
}
