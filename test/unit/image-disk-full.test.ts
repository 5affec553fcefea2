import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, describe, expect, test, vi } from 'vitest';
import type { EmbervmError } from '../../lib/errors.js';
import { Image } from '../../lib/image/image.js';
import { pull } from '../../lib/image/store/pull.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import { useFreshHome } from '../helpers/home.js';
import { layerOf, MadeSource } from '../helpers/image-source.js';
import { rejection } from '../helpers/rejection.js';
import { canMount, withSmallDisk } from '../helpers/small-disk.js';

const scratch = mkdtempSync(join(tmpdir(), 'embervm-full-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const sandboxes = useFreshHome();
const home = (...parts: string[]): string => join(sandboxes(), '..', ...parts);
const filesOf = (...parts: string[]): string[] =>
  existsSync(home(...parts)) ? readdirSync(home(...parts)) : [];

const NAME = 'docker.io/library/full:1';

function tarOf(file: string): Buffer {
  return execFileSync('tar', ['-C', scratch, '-c', file], { maxBuffer: 1e9 });
}

writeFileSync(join(scratch, 'noise'), randomBytes(200_000));
const tar = tarOf('noise');

function pullOnce(how: 'gzip' | 'none' = 'gzip'): Promise<unknown> {
  return pull({
    reference: 'full:1',
    name: NAME,
    policy: 'if-missing',
    open: async () => new MadeSource([layerOf(tar, how)]),
    report: () => {},
    signal: undefined,
  });
}

/** How an attempt ended: empty when it succeeded. */
async function endOf(attempt: () => Promise<unknown>): Promise<string> {
  try {
    await attempt();
    return '';
  } catch (error) {
    const { code, errno, message } = error as EmbervmError;
    return `${code} ${errno ?? message}`;
  }
}

describe.skipIf(!canMount)('a disk that is full', () => {
  /** From next to nothing until there is room for all of it. */
  async function growing(
    disks: Iterable<{ kib: number; files?: number }>,
    attempt: () => Promise<unknown>,
  ): Promise<{ ends: Set<string>; failed: number }> {
    const ends = new Set<string>();
    let failed = 0;
    for (const disk of disks) {
      await withSmallDisk(home(), disk, async () => {
        const end = await endOf(attempt);
        ends.add(end);
        if (end === '') return;
        failed += 1;
        expect([
          ...filesOf('cache'),
          ...filesOf('images/locks'),
          ...filesOf('images/pulls'),
        ]).toEqual([]);
        // What is listed can be used.
        if ((await Image.list()).length > 0) expect(filesOf('images/roots')).toHaveLength(1);
        expect(filesOf('images/refs')).toEqual([]);
        // It needs files itself, which are there wherever there is anything to remove.
        const content = filesOf('images/blobs').length;
        const pruned = await endOf(() => Image.prune());
        if (content > 0) expect(pruned).toBe('');
        expect([...filesOf('images/blobs'), ...filesOf('images/roots')]).toEqual([]);
      });
      if (ends.has('')) break;
    }
    return { ends, failed };
  }

  test('at any byte of a pull is said to be that, and leaves nothing', async () => {
    const disks = Array.from({ length: 80 }, (_, step) => ({ kib: 4 + 12 * step }));
    const { ends, failed } = await growing(disks, pullOnce);
    expect(ends).toEqual(new Set(['ERR_IMAGE_WRITE ENOSPC', '']));
    expect(failed).toBeGreaterThan(20);
  });

  test('of files at any step of a pull, too', async () => {
    const disks = Array.from({ length: 40 }, (_, step) => ({ kib: 4096, files: 2 + step }));
    const { ends, failed } = await growing(disks, pullOnce);
    for (const end of ends) expect(end).toMatch(/^(ERR_\w+ ENOSPC)?$/);
    expect(ends.has('')).toBe(true);
    expect(failed).toBeGreaterThan(5);
  });

  test.each(['docker', 'oci'] as const)(
    'leaves the archive before as it was (%s)',
    async (format) => {
      await pullOnce('none');
      const target = join(scratch, 'saved');
      const end = async (kib: number): Promise<string> => {
        let result = '';
        await withSmallDisk(target, { kib }, async () => {
          const path = join(target, 'image.tar');
          writeFileSync(path, 'before');
          result = await endOf(() => Image.save(NAME, path, { format }));
          if (result === '') return;
          expect(readdirSync(target)).toEqual(['image.tar']);
          expect(readFileSync(path, 'utf8')).toBe('before');
        });
        return result;
      };
      const ends: string[] = [];
      for (let kib = 8; kib < 400; kib += 24) ends.push(await end(kib));
      expect(new Set(ends)).toEqual(new Set(['ERR_IMAGE_WRITE ENOSPC', '']));
    },
  );

  test('for what an archive unpacks to is named', async () => {
    await pullOnce();
    const archive = join(scratch, 'image.tar.gz');
    await Image.save(NAME, join(scratch, 'image.tar'));
    writeFileSync(archive, gzipSync(readFileSync(join(scratch, 'image.tar'))));
    const temporary = join(scratch, 'temporary');
    await withSmallDisk(temporary, { kib: 64 }, async () => {
      vi.stubEnv('TMPDIR', temporary);
      const error = await rejection(Image.load(archive)).finally(() => vi.unstubAllEnvs());
      expect(error).toMatchObject({ code: 'ERR_IMAGE_WRITE', errno: 'ENOSPC' });
      expect(error.message).toContain(temporary);
      expect(readdirSync(temporary)).toEqual([]);
    });
  });

  test('for a writable layer leaves none', async () => {
    const target = join(scratch, 'upper');
    const path = join(target, 'upper.ext4');
    const ends = new Set<string>();
    for (let kib = 4; kib < 4096 && !ends.has(''); kib += 64) {
      await withSmallDisk(target, { kib }, async () => {
        const end = await endOf(() => createUpperDisk(path, 64));
        ends.add(end);
        if (end !== '') expect(readdirSync(target)).toEqual([]);
      });
    }
    expect([...ends].sort()).toEqual(['', expect.stringMatching(/^ERR_\w+ ENOSPC$/)]);
  });
});
