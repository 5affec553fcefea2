import { execFileSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const path = (name: string): string => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const GIB = 1024 ** 3;
const BLOCK = 4096;

/** Writes a template out as the sparse file it stands for; gives back its extents. */
function unpack(template: string, image: string): { offset: number; length: number }[] {
  const bytes = readFileSync(template);
  expect(bytes.toString('latin1', 0, 8)).toBe('EMBSPRS1');
  const count = bytes.readUInt32LE(16);
  const file = openSync(image, 'w');
  ftruncateSync(file, Number(bytes.readBigUInt64LE(8)));
  let at = 20 + 12 * count;
  const extents = [];
  for (let index = 0; index < count; index++) {
    const offset = Number(bytes.readBigUInt64LE(20 + 12 * index));
    const length = bytes.readUInt32LE(28 + 12 * index);
    writeSync(file, bytes, at, length, offset);
    extents.push({ offset, length });
    at += length;
  }
  closeSync(file);
  expect(at).toBe(bytes.length);
  return extents;
}

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'embervm-upper-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('guest/upper/pack.mjs', () => {
  const pack = (image: string, regions: string): string => {
    const output = join(folder, 'packed');
    execFileSync(process.execPath, [path('guest/upper/pack.mjs'), image, output], {
      input: regions,
    });
    return output;
  };

  it('keeps non-zero blocks, joins neighbours and drops zeros', () => {
    const image = join(folder, 'image');
    const file = openSync(image, 'w');
    ftruncateSync(file, 100 * BLOCK);
    writeSync(file, 'first', 3 * BLOCK);
    writeSync(file, 'second', 4 * BLOCK + 17);
    writeSync(file, Buffer.alloc(2 * BLOCK), 0, 2 * BLOCK, 50 * BLOCK);
    writeSync(file, 'x', 100 * BLOCK - 1);
    closeSync(file);
    const copy = join(folder, 'copy');
    const extents = unpack(pack(image, `0 ${100 * BLOCK}\n`), copy);
    expect(extents).toEqual([
      { offset: 3 * BLOCK, length: 2 * BLOCK },
      { offset: 99 * BLOCK, length: BLOCK },
    ]);
    expect(readFileSync(copy).equals(readFileSync(image))).toBe(true);
  });

  it('looks at a block that a region only touches', () => {
    const image = join(folder, 'image');
    const file = openSync(image, 'w');
    ftruncateSync(file, 10 * BLOCK);
    writeSync(file, 'edge', 5 * BLOCK - 2);
    closeSync(file);
    const copy = join(folder, 'copy');
    unpack(pack(image, `${5 * BLOCK - 2} 4\n`), copy);
    expect(readFileSync(copy).equals(readFileSync(image))).toBe(true);
  });
});

describe.each([
  { name: 'upper.ext4.sparse', mib: 4096 },
  { name: 'upper-64.ext4.sparse', mib: 64 },
])('$name', ({ name, mib }) => {
  const template = path(`build/guest/${name}`);

  it('is small, and a clean file system of its size', () => {
    expect(statSync(template).size).toBeLessThan(300_000);
    const image = join(folder, 'image');
    unpack(template, image);
    expect(statSync(image).size).toBe(mib * 1024 ** 2);
    execFileSync('e2fsck', ['-fn', image], { stdio: 'pipe' });
  });

  it('holds the directories of the overlay, owned by root', () => {
    const image = join(folder, 'image');
    unpack(template, image);
    for (const directory of ['upper', 'work']) {
      const stat = execFileSync('debugfs', ['-R', `stat /${directory}`, image], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      expect(stat).toMatch(/Type: directory\s+Mode:\s+0755/);
      expect(stat).toMatch(/User:\s+0\s+Group:\s+0\b/);
    }
  });

  it('has room in its group descriptors to grow to 256 GiB', () => {
    const image = join(folder, 'image');
    unpack(template, image);
    truncateSync(image, 256 * GIB);
    const before = execFileSync('dumpe2fs', ['-h', image], { encoding: 'utf8', stdio: 'pipe' });
    expect(before).toMatch(/Reserved GDT blocks:\s+15\b/);
    execFileSync('resize2fs', [image], { stdio: 'pipe' });
    execFileSync('e2fsck', ['-fn', image], { stdio: 'pipe' });
    const after = execFileSync('dumpe2fs', ['-h', image], { encoding: 'utf8', stdio: 'pipe' });
    expect(after).toContain(`Block count:              ${(256 * GIB) / BLOCK}`);
    expect(after).toContain('resize_inode');
  }, 60_000);
});
