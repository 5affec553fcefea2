import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdir, rename, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { finished } from 'node:stream/promises';
import { describe, expect, test } from 'vitest';
import { Volume } from '../../lib/index.js';
import { VolumeLease } from '../../lib/volume/store.js';
import { useFreshHome } from '../helpers/home.js';
import { rejection } from '../helpers/rejection.js';

const sandboxes = useFreshHome();
const volumes = (...names: string[]): string => join(sandboxes(), '..', 'volumes', ...names);
const code = async (promise: Promise<unknown>): Promise<unknown> => (await rejection(promise)).code;

describe('volumes', () => {
  test('are made, found by name and label, and removed', async () => {
    expect(await Volume.list()).toEqual([]);
    const made = await Volume.create('a', { quotaMib: 16, labels: { team: 'x' } });
    expect(made).toMatchObject({ name: 'a', kind: 'directory', quotaMib: 16 });
    await new Promise((resolve) => setTimeout(resolve, 2));
    await Volume.create('b', { kind: 'disk', sizeMib: 64, labels: { team: 'x', kind: 'y' } });
    expect((await Volume.list()).map(({ name }) => name)).toEqual(['b', 'a']);
    expect((await Volume.list({ labels: { kind: 'y' } })).map(({ name }) => name)).toEqual(['b']);
    const disk = await Volume.get('b');
    expect(disk).toMatchObject({ kind: 'disk', sizeMib: 64, quotaMib: undefined });
    // Sparse: what was formatted is all there is of it.
    expect(await disk.usedBytes()).toBeLessThan(16 * 1024 * 1024);
    expect(() => disk.files).toThrowError(expect.objectContaining({ code: 'ERR_UNSUPPORTED' }));
    expect(await code(Volume.create('a'))).toBe('ERR_VOLUME_EXISTS');
    await made.remove();
    await Volume.remove('b');
    expect(await code(Volume.get('a'))).toBe('ERR_VOLUME_NOT_FOUND');
    expect(await code(Volume.remove('a'))).toBe('ERR_VOLUME_NOT_FOUND');
    expect(readdirSync(volumes())).toEqual([]);
  });

  test.each([
    ['../escape', {}],
    ['', {}],
    ['a', { kind: 'tape' }],
    ['a', { quotaMib: 0 }],
    ['a', { sizeMib: 64 }],
    ['a', { kind: 'disk' }],
    ['a', { kind: 'disk', sizeMib: 1 }],
    ['a', { kind: 'disk', sizeMib: 64, quotaMib: 1 }],
    ['a', { size: 1 }],
    ['a', 'disk'],
  ])('%j with %j are refused', async (name, options) => {
    expect(await code(Volume.create(name, options as never))).toBe('ERR_INVALID_CONFIG');
    expect(existsSync(volumes())).toBe(false);
  });

  test('that are made at the same time: one is', async () => {
    const made = await Promise.allSettled([1, 2, 3, 4].map(() => Volume.create('a')));
    const failed = made.flatMap((one) => (one.status === 'rejected' ? [one.reason.code] : []));
    expect(failed).toEqual(Array(3).fill('ERR_VOLUME_EXISTS'));
    expect(readdirSync(volumes())).toEqual(['a']);
  });

  test('that a dead process was making, or removing, are swept', async () => {
    await mkdir(volumes('.new-dead', 'data'), { recursive: true });
    writeFileSync(volumes('.lock-dead'), '');
    await mkdir(volumes('.old-dead', 'data'), { recursive: true });
    await Volume.create('a');
    expect(readdirSync(volumes())).toEqual(['a']);
    expect((await Volume.list()).length).toBe(1);
  });

  test('that are damaged are no hindrance to others, and can be removed', async () => {
    await Volume.create('a');
    await Volume.create('b');
    writeFileSync(volumes('a', 'volume.json'), '{"version":1');
    expect(await code(Volume.get('a'))).toBe('ERR_STATE_CORRUPT');
    expect((await Volume.list()).map(({ name }) => name)).toEqual(['b']);
    await Volume.remove('a');
    expect(readdirSync(volumes())).toEqual(['b']);
  });
});

describe('the users of a volume', () => {
  test('of a directory are any number, and keep it', async () => {
    await Volume.create('a');
    const first = await VolumeLease.take('a', 'one', 'write');
    const second = await VolumeLease.take('a', 'two', 'write');
    expect(await rejection(Volume.remove('a'))).toMatchObject({
      code: 'ERR_VOLUME_IN_USE',
      context: { name: 'a' },
    });
    await first.release();
    expect((await rejection(Volume.remove('a'))).context).toMatchObject({ sandbox: 'two' });
    await second.release();
    await second.release();
    await Volume.remove('a');
    expect(await code(VolumeLease.take('a', 'one', 'read'))).toBe('ERR_VOLUME_NOT_FOUND');
  });

  test('of a disk are one that writes, or some that read', async () => {
    await Volume.create('a', { kind: 'disk', sizeMib: 64 });
    const writer = await VolumeLease.take('a', 'writer', 'write');
    for (const use of ['read', 'write'] as const) {
      expect(await rejection(VolumeLease.take('a', 'other', use))).toMatchObject({
        code: 'ERR_VOLUME_IN_USE',
        context: { sandbox: 'writer' },
      });
    }
    await writer.release();
    const readers = await Promise.all(
      ['x', 'y'].map((name) => VolumeLease.take('a', name, 'read')),
    );
    expect(await code(VolumeLease.take('a', 'other', 'write'))).toBe('ERR_VOLUME_IN_USE');
    await Promise.all(readers.map((reader) => reader.release()));
    await (await VolumeLease.take('a', 'other', 'write')).release();
  });

  test('that died are none', async () => {
    await Volume.create('a', { kind: 'disk', sizeMib: 64 });
    const id = '01234567-89ab-cdef-0123-456789abcdef';
    writeFileSync(volumes('a', 'users', `write-${id}-dead`), '');
    await (await VolumeLease.take('a', 'other', 'write')).release();
    expect(readdirSync(volumes('a', 'users'))).toEqual([]);
  });
});

describe('the files of a volume', () => {
  test('are written, read, listed, renamed and removed', async () => {
    const { files } = await Volume.create('a');
    await files.mkdir('/deep/er');
    await files.write('/deep/er/file', 'one\n', { mode: 0o600 });
    await files.append('deep/er/file', Buffer.from('two\n'));
    expect(await files.readText('/deep//er/./file')).toBe('one\ntwo\n');
    expect(await files.stat('/deep/er/file')).toMatchObject({ kind: 'file', size: 8, mode: 0o600 });
    expect(await code(files.write('/deep/er/file', '', { exclusive: true }))).toBe(
      'ERR_FILE_EXISTS',
    );
    await files.write('/deep/er/file', 'x');
    expect(await code(files.read('/deep/er/file', { maxBytes: 0 }))).toBe('ERR_FILE_LIMIT');

    const out = files.createWriteStream('/stream');
    for (let n = 0; n < 100; n += 1) out.write(`${n},`.repeat(1000));
    out.end();
    await finished(out);
    expect((await text(files.createReadStream('/stream', { start: 2000, end: 2003 }))).length).toBe(
      4,
    );
    expect((await text(files.createReadStream('/stream'))).length).toBe(290_000);
    await files.rename('/stream', '/deep/moved');
    const listed = [];
    for await (const { name, path, kind } of files.list('/deep')) listed.push({ name, path, kind });
    expect(listed.sort((a, b) => (a.name < b.name ? -1 : 1))).toEqual([
      { name: 'er', path: '/deep/er', kind: 'directory' },
      { name: 'moved', path: '/deep/moved', kind: 'file' },
    ]);
    expect(await (await Volume.get('a')).usedBytes()).toBeGreaterThan(200_000);
    expect(await code(files.remove('/deep'))).toBe('ERR_FILE_NOT_EMPTY');
    await files.remove('/deep', { recursive: true });
    expect(await files.exists('/deep/er/file')).toBe(false);
    expect(await files.exists('/')).toBe(true);
    expect(await code(files.read('/none'))).toBe('ERR_FILE_NOT_FOUND');
    expect(await code(files.read('/'))).toBe('ERR_FILE_IS_DIRECTORY');
    expect(await code(files.remove('/', { recursive: true }))).toBe('ERR_FILE_IS_DIRECTORY');
    expect(await code(files.mkdir('/x/y', { recursive: false }))).toBe('ERR_FILE_NOT_FOUND');
    expect(await code(files.read('a\0b'))).toBe('ERR_INVALID_CONFIG');
  });

  test('lead nowhere else, whatever a guest has put there', async () => {
    const { files, path } = await Volume.create('a');
    const outside = join(path, '..', 'outside');
    await mkdir(outside);
    writeFileSync(join(outside, 'secret'), 'secret');
    symlinkSync(outside, join(path, 'way'));
    symlinkSync(join(outside, 'secret'), join(path, 'link'));
    symlinkSync('/proc/self/root', join(path, 'root'));
    spawnSync('mkfifo', [join(path, 'pipe')]);
    for (const way of [
      '/way/secret',
      '/link',
      '/root/etc/passwd',
      '../outside/secret',
      '/way/..',
    ]) {
      expect([way, await code(files.read(way))]).toEqual([way, 'ERR_FILE_ESCAPE']);
      expect([way, await code(files.write(way, 'x'))]).toEqual([way, 'ERR_FILE_ESCAPE']);
    }
    expect(await code(files.mkdir('/way/new'))).toBe('ERR_FILE_ESCAPE');
    expect(await code(files.remove('/way/secret'))).toBe('ERR_FILE_ESCAPE');
    expect(await code(files.rename('/link', '/way/stolen'))).toBe('ERR_FILE_ESCAPE');
    expect(await code(files.list('/way').next())).toBe('ERR_FILE_ESCAPE');
    expect(await code(text(files.createReadStream('/link')))).toBe('ERR_FILE_ESCAPE');
    expect(await code(finished(files.createWriteStream('/link')))).toBe('ERR_FILE_ESCAPE');
    // Nobody is at its other end: to open it would wait for ever.
    expect(await code(files.read('/pipe'))).toBe('ERR_FILE_SPECIAL');
    expect(await code(files.write('/pipe', 'x'))).toBe('ERR_FILE_SPECIAL');
    expect((await files.stat('/way')).kind).toBe('symlink');
    await files.mkdir('/tree');
    await symlink(outside, join(path, 'tree', 'way'));
    await files.remove('/tree', { recursive: true });
    expect(readFileSync(join(outside, 'secret'), 'utf8')).toBe('secret');
    expect(readdirSync(outside)).toEqual(['secret']);
  });

  test('are removed within the volume, also while a guest puts links in their place', async () => {
    const { files, path } = await Volume.create('a');
    const outside = join(path, '..', 'outside');
    await mkdir(outside);
    for (let n = 0; n < 20; n += 1) writeFileSync(join(outside, `f${n}`), '');
    let stop = false;
    const guest = (async () => {
      while (!stop) {
        await mkdir(join(path, 'tree', 'd'), { recursive: true }).catch(() => {});
        await rename(join(path, 'tree', 'd'), join(path, 'aside')).catch(() => {});
        await symlink(outside, join(path, 'tree', 'd')).catch(() => {});
        await rm(join(path, 'tree', 'd'), { force: true }).catch(() => {});
        await rm(join(path, 'aside'), { recursive: true, force: true }).catch(() => {});
      }
    })();
    for (let n = 0; n < 200; n += 1) {
      await files.remove('/tree', { recursive: true }).catch(() => {});
    }
    stop = true;
    await guest;
    expect(readdirSync(outside).length).toBe(20);
  });
});
