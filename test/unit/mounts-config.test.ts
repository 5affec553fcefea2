import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseSandboxOptions, storedOptions } from '../../lib/config/sandbox.js';
import { inheritOptions } from '../../lib/config/snapshot.js';
import { EmbervmError } from '../../lib/errors.js';

const tmpfs = { tmpfs: {} };

function failure(mounts: unknown): { code: string; message: string } {
  try {
    parseSandboxOptions({ mounts });
  } catch (error) {
    if (error instanceof EmbervmError) return { code: error.code, message: error.message };
  }
  return { code: 'none', message: '' };
}

describe('mounts', () => {
  test('are in the order in which they can be mounted, with clean paths', () => {
    const { mounts } = parseSandboxOptions({
      mounts: { '/a/b/c': tmpfs, '/z/': { bind: 'x' }, '//a/./b': tmpfs, '/a': tmpfs },
    });
    expect(mounts.map(({ target }) => target)).toEqual(['/z', '/a', '/a/b', '/a/b/c']);
    expect(mounts[0]?.source).toEqual({
      kind: 'bind',
      path: resolve('x'),
      cache: 'auto',
      owner: { uid: 0, gid: 0 },
    });
    expect(mounts[1]).toEqual({
      target: '/a',
      source: { kind: 'tmpfs', sizeBytes: undefined, mode: undefined },
      readonly: false,
      noexec: false,
      nosuid: false,
      nodev: false,
    });
  });

  test.each([
    [{ work: tmpfs }, 'absolute'],
    [{ '': tmpfs }, 'absolute'],
    [{ '/': tmpfs }, 'root itself'],
    [{ '/./': tmpfs }, 'root itself'],
    [{ '/a/../b': tmpfs }, '..'],
    [{ '/a\0': tmpfs }, 'NUL'],
    [{ '/proc': tmpfs }, '/proc'],
    [{ '/sys/fs': tmpfs }, '/sys'],
    [{ '/.embervm/scripts': tmpfs }, '/.embervm'],
    [{ '/dev/': tmpfs }, '/dev'],
    [{ '/a': tmpfs, '/a/': tmpfs }, 'same path'],
    [{ '/a': {} }, 'exactly one'],
    [{ '/a': { bind: '/x', volume: 'v' } }, 'exactly one'],
    [{ '/a': { bind: '' } }, 'empty'],
    [{ '/a': { bind: '/x', readOnly: true } }, 'readOnly'],
    [{ '/a': { bind: '/x', fstype: 'ext4' } }, 'fstype'],
    [{ '/a': { tmpfs: {}, cache: 'none' } }, 'cache'],
    [{ '/a': { tmpfs: { sizeMib: 0 } } }, 'sizeMib'],
    [{ '/a': { tmpfs: { size: 1 } } }, 'size'],
    [{ '/a': { volume: '../x' } }, 'volume'],
    [{ '/a': { disk: '/x', fstype: 'ntfs' } }, 'ext4'],
    [{ '/a': 'host' }, '/a'],
    [Object.fromEntries(Array.from({ length: 9 }, (_, n) => [`/${n}`, { bind: '/x' }])), '8'],
    [Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`/${n}`, tmpfs])), '64'],
  ])('%j are refused', (mounts, why) => {
    const { code, message } = failure(mounts);
    expect(code).toBe('ERR_INVALID_CONFIG');
    expect(message).toContain(why);
  });

  test('of another format of disk are refused', () => {
    expect(failure({ '/a': { disk: '/x', format: 'vdi' } }).code).toBe('ERR_INVALID_CONFIG');
  });

  test('below /dev are fine', () => {
    expect(failure({ '/dev/shm': tmpfs }).code).toBe('none');
  });

  test('are put on record, and a copy inherits what is not of the host', () => {
    const mounts = { '/m': tmpfs, '/b': { bind: '/x' }, '/v': { volume: 'v' } };
    expect(storedOptions({ mounts })).toEqual({ mounts });
    const inherited = inheritOptions('memory', { mounts }, {}, 'fork');
    expect(inherited.mounts).toEqual({ '/m': tmpfs });
    const more = inheritOptions('disk', { mounts }, { mounts: { '/n': { bind: '/y' } } }, 'fork');
    expect(more.mounts).toEqual({ '/m': tmpfs, '/n': { bind: '/y' } });
  });
});
