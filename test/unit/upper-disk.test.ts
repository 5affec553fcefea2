import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { EmbervmError } from '../../lib/errors.js';
import { packageRoot } from '../../lib/native/package-root.js';
import { createDiskFrom, parseTemplate } from '../../lib/state/upper-disk.js';
import { useDirectory } from '../helpers/directory.js';
import { rejection, thrown } from '../helpers/rejection.js';

const MIB = 2 ** 20;
const directory = useDirectory();

interface Part {
  offset: number;
  data: Uint8Array;
}

function encode(imageBytes: number, parts: Part[]): Buffer {
  const header = Buffer.alloc(20 + 12 * parts.length);
  header.write('EMBSPRS1', 0, 'latin1');
  header.writeBigUInt64LE(BigInt(imageBytes), 8);
  header.writeUInt32LE(parts.length, 16);
  parts.forEach(({ offset, data }, index) => {
    header.writeBigUInt64LE(BigInt(offset), 20 + 12 * index);
    header.writeUInt32LE(data.length, 28 + 12 * index);
  });
  return Buffer.concat([header, ...parts.map((part) => part.data)]);
}

const good = encode(MIB, [
  { offset: 0, data: Buffer.from('first') },
  { offset: 4096, data: Buffer.from('second') },
  { offset: MIB - 4, data: Buffer.from('last') },
]);

describe('a disk', () => {
  test('has the extents of the template at their places, and holes between', async () => {
    const path = await directory();
    await writeFile(join(path, 'template'), good);
    const disk = await createDiskFrom(join(path, 'template'), join(path, 'disk'), 1);
    expect(disk).toEqual({ path: join(path, 'disk'), grow: false });
    const bytes = await readFile(disk.path);
    const expected = Buffer.alloc(MIB);
    expected.write('first', 0);
    expected.write('second', 4096);
    expected.write('last', MIB - 4);
    expect(bytes.equals(expected)).toBe(true);
    const { blocks, mode } = await stat(disk.path);
    expect(blocks * 512).toBeLessThan(64 * 1024);
    expect(mode & 0o777).toBe(0o600);
  });

  test('larger than the template is to be grown', async () => {
    const path = await directory();
    await writeFile(join(path, 'template'), good);
    const disk = await createDiskFrom(join(path, 'template'), join(path, 'disk'), 3);
    expect(disk.grow).toBe(true);
    expect((await stat(disk.path)).size).toBe(3 * MIB);
  });

  test('is never written over a file', async () => {
    const path = await directory();
    await writeFile(join(path, 'template'), good);
    await writeFile(join(path, 'disk'), 'precious');
    const error = await rejection(createDiskFrom(join(path, 'template'), join(path, 'disk'), 1));
    expect(error).toMatchObject({ code: 'ERR_STATE_DIR', errno: 'EEXIST' });
    expect(await readFile(join(path, 'disk'), 'utf8')).toBe('precious');
  });

  test('smaller than the template is refused, and leaves no file', async () => {
    const path = await directory();
    await writeFile(join(path, 'template'), encode(8 * MIB, []));
    const error = await rejection(createDiskFrom(join(path, 'template'), join(path, 'disk'), 4));
    expect(error.code).toBe('ERR_ASSET_INVALID');
    expect(existsSync(join(path, 'disk'))).toBe(false);
  });

  test('of a template that is absent or cut is refused', async () => {
    const path = await directory();
    const template = join(path, 'template');
    expect(await rejection(createDiskFrom(template, join(path, 'disk'), 1))).toMatchObject({
      code: 'ERR_ASSET_INVALID',
      cause: { code: 'ENOENT' },
    });
    await writeFile(template, good);
    await truncate(template, good.length - 1);
    const error = await rejection(createDiskFrom(template, join(path, 'disk'), 1));
    expect(error.code).toBe('ERR_ASSET_INVALID');
    expect(existsSync(join(path, 'disk'))).toBe(false);
  });
});

describe('a template', () => {
  test.each([
    ['empty', Buffer.alloc(0)],
    ['of another magic', Buffer.concat([Buffer.from('EMBSPRS2'), good.subarray(8)])],
    ['that ends in its header', good.subarray(0, 19)],
    ['that ends in its list', good.subarray(0, 40)],
    ['that ends in its data', good.subarray(0, good.length - 1)],
    ['with something after its data', Buffer.concat([good, Buffer.from('x')])],
    ['with an extent outside', encode(100, [{ offset: 99, data: Buffer.from('xy') }])],
    [
      'with extents that overlap',
      encode(MIB, [
        { offset: 10, data: Buffer.from('abc') },
        { offset: 12, data: Buffer.from('abc') },
      ]),
    ],
    [
      'with extents out of order',
      encode(MIB, [
        { offset: 10, data: Buffer.from('a') },
        { offset: 0, data: Buffer.from('a') },
      ]),
    ],
    [
      'with an absurd size',
      (() => {
        const b = Buffer.from(good);
        b.writeBigUInt64LE(2n ** 64n - 1n, 8);
        return b;
      })(),
    ],
    [
      'with an absurd count',
      (() => {
        const b = Buffer.from(good);
        b.writeUInt32LE(2 ** 32 - 1, 16);
        return b;
      })(),
    ],
  ])('%s is refused', (_, bytes) => {
    expect(thrown(() => parseTemplate(bytes, 'x')).code).toBe('ERR_ASSET_INVALID');
  });

  test('with any damage is refused or stays within its image', () => {
    const damage = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 4 });
    fc.assert(
      fc.property(damage, (changes) => {
        const bytes = Buffer.from(good);
        for (const [at, value] of changes) bytes[at] = value;
        try {
          const { imageBytes, extents } = parseTemplate(bytes, 'x');
          for (const { offset, data } of extents) {
            expect(offset + data.length).toBeLessThanOrEqual(imageBytes);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(EmbervmError);
        }
      }),
    );
  });
});

const templates = join(packageRoot(), 'build/guest');

describe.skipIf(!existsSync(join(templates, 'upper.ext4.sparse')))('the real templates', () => {
  test.each([
    ['upper.ext4.sparse', 4096],
    ['upper-64.ext4.sparse', 64],
  ])('%s unpacks to a clean ext4', async (name, mib) => {
    const path = join(await directory(), 'disk');
    const disk = await createDiskFrom(join(templates, name), path, mib);
    expect(disk.grow).toBe(false);
    expect(() => execFileSync('e2fsck', ['-fn', path], { stdio: 'pipe' })).not.toThrow();
    expect((await stat(path)).blocks * 512).toBeLessThan(2 * MIB);
  });
});
