// pack.mjs <image> <output>: keeps the 4 KiB blocks of an image that are not zero. Reads from
// stdin which regions hold data, a line of "offset length" each.
//
// Format, all integers little-endian:
//   "EMBSPRS1", u64 image bytes, u32 extent count,
//   per extent: u64 offset, u32 length,
//   then the bytes of all extents, in order.
import {
  closeSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  writeFileSync,
} from 'node:fs';

const BLOCK = 4096;
const MAGIC = 'EMBSPRS1';
const ZERO = Buffer.alloc(BLOCK);

/** The numbers of the blocks that hold anything, in order. */
function listBlocks(size) {
  const blocks = [];
  for (const line of readFileSync(0, 'utf8').trim().split('\n')) {
    const [offset, length] = line.split(' ').map(Number);
    const end = Math.min(size, offset + length);
    for (let block = Math.floor(offset / BLOCK); block * BLOCK < end; block++) blocks.push(block);
  }
  return blocks;
}

/** Runs of non-zero blocks as `{ offset, chunks }`. */
function findExtents(file, size) {
  const extents = [];
  let previous = -2;
  for (const block of listBlocks(size)) {
    const bytes = Buffer.alloc(BLOCK);
    readSync(file, bytes, 0, BLOCK, block * BLOCK);
    if (bytes.equals(ZERO)) continue;
    if (block !== previous + 1) extents.push({ offset: block * BLOCK, chunks: [] });
    extents.at(-1).chunks.push(bytes);
    previous = block;
  }
  return extents;
}

function pack(image, output) {
  const file = openSync(image, 'r');
  const { size } = fstatSync(file);
  const extents = findExtents(file, size);
  closeSync(file);

  const header = Buffer.alloc(20 + 12 * extents.length);
  header.write(MAGIC, 0, 'latin1');
  header.writeBigUInt64LE(BigInt(size), 8);
  header.writeUInt32LE(extents.length, 16);
  extents.forEach(({ offset, chunks }, index) => {
    header.writeBigUInt64LE(BigInt(offset), 20 + 12 * index);
    header.writeUInt32LE(chunks.length * BLOCK, 28 + 12 * index);
  });
  writeFileSync(`${output}.tmp`, Buffer.concat([header, ...extents.flatMap((e) => e.chunks)]));
  renameSync(`${output}.tmp`, output);
}

const [image, output] = process.argv.slice(2);
if (image === undefined || output === undefined) {
  console.error('usage: pack.mjs <image> <output>');
  process.exitCode = 2;
} else {
  pack(image, output);
}
