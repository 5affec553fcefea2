import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FileError } from '../../lib/errors.js';
import { type FileChange, type FileEntry, Sandbox, type SandboxFiles } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection, thrown } from '../helpers/rejection.js';

useHome();
const KIB = 1024;
const MIB = 1024 * KIB;
let sandbox: Sandbox;
let files: SandboxFiles;

const sh = async (script: string): Promise<string> => {
  const { stdout, stderr, exitCode } = await sandbox.shell(script);
  if (exitCode !== 0) throw new Error(`${script}: exit code ${exitCode}: ${stderr}`);
  return stdout.trim();
};

const failure = async (promise: Promise<unknown>): Promise<[string, string | undefined]> => {
  const error = (await rejection(promise)) as FileError;
  return [error.code, error.errno];
};

const collect = async (entries: AsyncIterable<FileEntry>): Promise<FileEntry[]> => {
  const all: FileEntry[] = [];
  for await (const entry of entries) all.push(entry);
  return all.sort((a, b) => (a.name < b.name ? -1 : 1));
};

describeGuest('files of a sandbox', () => {
  beforeAll(async () => {
    sandbox = await Sandbox.create(small({ name: 'files-test' }));
    files = sandbox.files;
    await files.mkdir('/t');
    // Far fewer instructions of an emulated kernel than the writable layer takes.
    await sh('mount -t tmpfs none /t');
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await sandbox?.close();
  });

  test('are written and read, as text, bytes and pieces', async () => {
    await files.write('/t/text', 'grüß dich\n');
    expect(await files.readText('/t/text')).toBe('grüß dich\n');
    expect(await sh('cat /t/text')).toBe('grüß dich');
    const bytes = randomBytes(200 * KIB + 1);
    await files.write('/t/bytes', bytes, { mode: 0o751 });
    expect(Buffer.compare(await files.read('/t/bytes'), bytes)).toBe(0);
    expect(await sh('stat -c %a:%s /t/bytes')).toBe(`751:${bytes.length}`);
    await files.write(
      '/t/bytes',
      (async function* () {
        yield 'one';
        yield Buffer.from(' two');
      })(),
    );
    await files.append('/t/bytes', [' three', Buffer.from(' four')]);
    expect(await files.readText('/t/bytes')).toBe('one two three four');
    expect(await sh('stat -c %a /t/bytes')).toBe('751');
    await files.write('/t/empty', '');
    // The writable layer, where a file of the image is changed.
    await files.append('/etc/hostname', '# more\n');
    expect(await files.readText('/etc/hostname')).toMatch(/# more\n$/);
    await files.remove('/etc/hostname');
    expect(await files.exists('/etc/hostname')).toBe(false);
    expect(await files.read('/t/empty')).toHaveLength(0);
    expect(await files.readText('/proc/version')).toMatch(/^Linux version/);
  });

  test('that are missing, or are something else, are typed errors', async () => {
    const missing = (await rejection(files.read('/t/none'))) as FileError;
    expect(missing).toMatchObject({
      name: 'FileError',
      code: 'ERR_FILE_NOT_FOUND',
      errno: 'ENOENT',
      syscall: 'open',
      path: '/t/none',
    });
    expect(await failure(files.read('/t'))).toEqual(['ERR_FILE_IS_DIRECTORY', 'EISDIR']);
    expect(await failure(files.write('/t/none/x', 'x'))).toEqual(['ERR_FILE_NOT_FOUND', 'ENOENT']);
    expect(await failure(files.write('/t/text/x', 'x'))).toEqual([
      'ERR_FILE_NOT_DIRECTORY',
      'ENOTDIR',
    ]);
    expect(await failure(files.write('/t/text', 'x', { exclusive: true }))).toEqual([
      'ERR_FILE_EXISTS',
      'EEXIST',
    ]);
    expect(await failure(files.remove('/proc/version'))).toEqual(['ERR_FILE_ACCESS', 'EPERM']);
    expect(await failure(files.read('/dev/zero'))).toEqual(['ERR_FILE_SPECIAL', 'ENXIO']);
    expect(await failure(files.read('/t/bytes', { maxBytes: 3 }))).toEqual([
      'ERR_FILE_LIMIT',
      undefined,
    ]);
    expect(await failure(collect(files.list('/t/none')))).toEqual(['ERR_FILE_NOT_FOUND', 'ENOENT']);
    expect(await failure(collect(files.list('/t/text')))).toEqual([
      'ERR_FILE_NOT_DIRECTORY',
      'ENOTDIR',
    ]);
  });

  test('take no bad arguments', async () => {
    const long = `/${'x'.repeat(5000)}`;
    for (const path of ['', 'relative', './t', '/a\0b', long, 7, undefined, null]) {
      const bad = path as string;
      for (const call of [
        () => files.read(bad),
        () => files.write(bad, ''),
        () => files.stat(bad),
        () => files.exists(bad),
        () => files.mkdir(bad),
        () => files.remove(bad),
        () => files.rename(bad, '/t/x'),
        () => files.rename('/t/text', bad),
        () => files.copy('/t/text', bad),
        () => files.symlink('x', bad),
        () => files.readlink(bad),
        () => files.chmod(bad, 0o644),
        () => files.chown(bad, 0, 0),
        () => files.copyIn('/etc/passwd', bad),
        () => files.copyOut(bad, '/tmp/never'),
      ]) {
        expect((await rejection(call())).code).toBe('ERR_INVALID_CONFIG');
      }
      expect(thrown(() => files.list(bad)).code).toBe('ERR_INVALID_CONFIG');
      expect(thrown(() => files.watch(bad)).code).toBe('ERR_INVALID_CONFIG');
      expect(thrown(() => files.createReadStream(bad)).code).toBe('ERR_INVALID_CONFIG');
    }
    expect((await rejection(files.chmod('/t', 0o10000))).code).toBe('ERR_INVALID_CONFIG');
    expect((await rejection(files.chown('/t', -1, 0))).code).toBe('ERR_INVALID_CONFIG');
    expect((await rejection(files.write('/t/x', 7 as never))).code).toBe('ERR_INVALID_CONFIG');
    expect((await rejection(files.write('/t/x', [7] as never))).code).toBe('ERR_INVALID_CONFIG');
    expect((await rejection(files.read('/t', { nope: 1 } as never))).message).toContain('nope');
    expect((await rejection(files.symlink('', '/t/x'))).code).toBe('ERR_INVALID_CONFIG');
    const range = { start: 5, end: 4 };
    expect(thrown(() => files.createReadStream('/t/text', range)).code).toBe('ERR_INVALID_CONFIG');
  });

  test('are described', async () => {
    await sh('cd /t && echo hello > s && chmod 2640 s && chown 12:34 s && ln -sf s l && mkfifo f');
    const stat = await files.stat('/t/l');
    expect(stat).toMatchObject({ kind: 'file', size: 6, mode: 0o2640, uid: 12, gid: 34, links: 1 });
    expect(stat.modified.getTime() / 1000).toBeCloseTo(Number(await sh('stat -c %Y /t/s')), -1);
    expect((await files.lstat('/t/l')).kind).toBe('symlink');
    expect((await files.lstat('/t/f')).kind).toBe('fifo');
    expect((await files.stat('/')).kind).toBe('directory');
    expect((await files.stat('/dev/null')).kind).toBe('character-device');
    expect(await files.exists('/t/l')).toBe(true);
    expect(await files.exists('/t/none')).toBe(false);
    expect(await files.exists('/t/s/none')).toBe(false);
  });

  test('are listed, however many', async () => {
    await sh('mkdir /t/many && cd /t/many && for i in $(seq 300); do : > n$i; done; ln -s x link');
    const entries = await collect(files.list('/t/many'));
    expect(entries).toHaveLength(301);
    expect(new Set(entries.map(({ name }) => name)).size).toBe(301);
    expect(entries.find(({ name }) => name === 'n17')).toMatchObject({
      path: '/t/many/n17',
      kind: 'file',
      size: 0,
    });
    expect(entries.find(({ name }) => name === 'link')?.kind).toBe('symlink');
    // Leaving early ends the operation.
    for await (const _ of files.list('/t/many')) break;
    expect((await collect(files.list('/'))).map(({ path }) => path)).toContain('/t');
  });

  test('are made, moved, linked, changed and removed', async () => {
    await files.mkdir('/t/a/b/c', { mode: 0o700 });
    await files.mkdir('/t/a/b/c');
    expect(await sh('stat -c %a /t/a/b/c')).toBe('700');
    expect(await failure(files.mkdir('/t/a', { recursive: false }))).toEqual([
      'ERR_FILE_EXISTS',
      'EEXIST',
    ]);
    await files.symlink('../target', '/t/a/link');
    expect(await files.readlink('/t/a/link')).toBe('../target');
    expect(await failure(files.readlink('/t/a'))).toEqual(['ERR_FILE_FAILED', 'EINVAL']);
    await files.chown('/t/a/link', 5, 6, { followSymlink: false });
    await files.chmod('/t/a/b', 0o1777);
    await files.chown('/t/a/b', 7, 8);
    expect(await sh('stat -c %a:%u:%g /t/a/b; stat -c %u:%g /t/a/link')).toBe('1777:7:8\n5:6');
    await files.rename('/t/a/b', '/t/a/moved');
    expect(await files.exists('/t/a/moved/c')).toBe(true);
    expect(await failure(files.rename('/t/a/none', '/t/a/x'))).toEqual([
      'ERR_FILE_NOT_FOUND',
      'ENOENT',
    ]);
    expect(await failure(files.remove('/t/a'))).toEqual(['ERR_FILE_NOT_EMPTY', 'ENOTEMPTY']);
    await files.remove('/t/a/moved/c');
    await files.remove('/t/a', { recursive: true });
    expect(await files.exists('/t/a')).toBe(false);
    expect(await failure(files.remove('/t/a', { recursive: true }))).toEqual([
      'ERR_FILE_NOT_FOUND',
      'ENOENT',
    ]);
    for (const path of ['/', '/.', '/..', '/t/..', '//']) {
      expect(await failure(files.remove(path))).toEqual(['ERR_FILE_FAILED', 'EBUSY']);
      expect(await failure(files.remove(path, { recursive: true }))).toEqual([
        'ERR_FILE_FAILED',
        'EBUSY',
      ]);
    }
  });

  test('are copied within the guest', async () => {
    await sh(
      'mkdir -p /t/from/sub && cd /t/from && echo a > a && chown 3:4 a && chmod 4755 a && ' +
        'ln -s a l && ln a hard && touch -d @1000000000 a && echo b > sub/b',
    );
    expect(await failure(files.copy('/t/from', '/t/to'))).toEqual([
      'ERR_FILE_IS_DIRECTORY',
      'EISDIR',
    ]);
    await files.copy('/t/from', '/t/to', { recursive: true });
    expect(await sh('cd /t/to && cat sub/b && readlink l && stat -c %a:%u:%g:%Y:%h a')).toBe(
      'b\na\n4755:3:4:1000000000:1',
    );
    await files.copy('/t/from/a', '/t/one');
    expect(await files.readText('/t/one')).toBe('a\n');
    expect(await failure(files.copy('/t/one', '/t/one'))).toEqual(['ERR_FILE_FAILED', 'EINVAL']);
    expect(await failure(files.copy('/dev/null', '/t/null'))).toEqual([
      'ERR_FILE_SPECIAL',
      'ENXIO',
    ]);
    await sh('mkdir /t/dev && mknod /t/dev/n c 1 3 && ln -s ../from /t/dev/l');
    const error = (await rejection(
      files.copy('/t/dev', '/t/dev2', { recursive: true }),
    )) as FileError;
    expect([error.code, error.path]).toEqual(['ERR_FILE_SPECIAL', '/t/dev/n']);
  });

  test('stay inside of the root', async () => {
    // What the agent itself sees lies around the root; no link of the guest leads there.
    await sh(
      'ln -s /../../../init /t/out; ln -s ../../../../../../ /t/up; ln -s /proc/1/root /t/p',
    );
    expect(await failure(files.read('/t/out'))).toEqual(['ERR_FILE_NOT_FOUND', 'ENOENT']);
    expect(await files.exists('/t/up/t/text')).toBe(true);
    expect(await files.exists('/t/up/init')).toBe(false);
    expect((await failure(files.stat('/t/p/init')))[1]).toBe('ELOOP');
    await files.write('/t/up/t/through', 'x');
    expect(await files.readText('/t/through')).toBe('x');
  });

  test('are streamed in constant memory, with the reader setting the pace', async () => {
    const size = 6 * MIB;
    const chunk = randomBytes(64 * KIB);
    await pipeline(
      (function* () {
        for (let at = 0; at < size; at += chunk.length) yield chunk;
      })(),
      files.createWriteStream('/t/large'),
    );
    expect((await files.stat('/t/large')).size).toBe(size);
    const before = (await sandbox.metrics()).vsock.receivedBytes;
    const stream = files.createReadStream('/t/large');
    const [first] = (await once(stream, 'data')) as [Buffer];
    stream.pause();
    await sleep(500);
    // What the guest could send while nobody read: buffers on the way, not the file.
    expect((await sandbox.metrics()).vsock.receivedBytes - before).toBeLessThan(1.5 * MIB);
    const base = process.memoryUsage().rss;
    let peak = 0;
    let length = first.length;
    for await (const data of stream) {
      length += (data as Buffer).length;
      peak = Math.max(peak, process.memoryUsage().rss - base);
    }
    expect(length).toBe(size);
    expect(peak).toBeLessThan(16 * MIB);
    const range = files.createReadStream('/t/large', { start: 64 * KIB + 1, end: 64 * KIB + 10 });
    expect(Buffer.concat(await range.toArray())).toEqual(chunk.subarray(1, 11));
  }, 120_000);

  test('report in a stream what went wrong', async () => {
    const reading = files.createReadStream('/t/none');
    const [readError] = await Promise.all([once(reading, 'error'), reading.resume()]);
    expect(readError[0]).toMatchObject({ code: 'ERR_FILE_NOT_FOUND' });
    const writing = files.createWriteStream('/t/none/x');
    const [writeError] = await once(writing, 'error');
    expect(writeError).toMatchObject({ code: 'ERR_FILE_NOT_FOUND', path: '/t/none/x' });
    const early = files.createReadStream('/t/large');
    await once(early, 'data');
    early.destroy();
    await once(early, 'close');
  });

  test('do not fit on a full disk', async () => {
    await sh('mkdir -p /t/full && mount -t tmpfs -o size=1m none /t/full');
    const big = Buffer.alloc(3 * MIB);
    expect(await failure(files.write('/t/full/a', big))).toEqual(['ERR_FILE_NO_SPACE', 'ENOSPC']);
    expect(await failure(pipeline([big], files.createWriteStream('/t/full/b')))).toEqual([
      'ERR_FILE_NO_SPACE',
      'ENOSPC',
    ]);
    expect(await failure(files.copy('/t/large', '/t/full/c'))).toEqual([
      'ERR_FILE_NO_SPACE',
      'ENOSPC',
    ]);
    // A source that stays silent does not keep the failure back.
    const silent = async function* (): AsyncGenerator<Uint8Array> {
      yield big.subarray(0, 2 * MIB);
      await sleep(600_000, undefined, { ref: false });
    };
    expect(await failure(files.write('/t/full/d', silent()))).toEqual([
      'ERR_FILE_NO_SPACE',
      'ENOSPC',
    ]);
    await sh('umount /t/full');
  });

  test('end with their signal', async () => {
    const aborted = AbortSignal.abort(new Error('no more'));
    for (const call of [
      () => files.read('/t/text', { signal: aborted }),
      () => files.stat('/t/text', { signal: aborted }),
      () => files.write('/t/text', 'x', { signal: aborted }),
      () => files.remove('/t', { recursive: true, signal: aborted }),
      () => collect(files.list('/t', { signal: aborted })),
      () => files.copyOut('/t/text', '/tmp/never', { signal: aborted }),
    ]) {
      const error = await rejection(call());
      expect([error.code, (error.cause as Error).message]).toEqual(['ERR_ABORTED', 'no more']);
    }
    expect(await files.exists('/t/text')).toBe(true);
    const controller = new AbortController();
    const endless = async function* (): AsyncGenerator<Uint8Array> {
      for (;;) {
        yield Buffer.alloc(KIB);
        await sleep(10);
      }
    };
    const writing = files.write('/t/endless', endless(), { signal: controller.signal });
    setTimeout(() => controller.abort(), 300);
    expect((await rejection(writing)).code).toBe('ERR_ABORTED');
    const reading = files.createReadStream('/t/large', { signal: AbortSignal.timeout(50) });
    const error = await pipeline(reading, async (source) => {
      for await (const _ of source) await sleep(20);
    }).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ code: 'ERR_ABORTED' });
  });

  test('are watched', async () => {
    await sh('mkdir -p /t/watched/sub && echo x > /t/watched/old');
    await using watcher = files.watch('/t/watched', { recursive: true });
    await watcher.ready;
    await sh(
      'cd /t/watched && echo new > sub/new && mv old sub/moved && mkdir -p deep/er && rm sub/new',
    );
    const seen: FileChange[] = [];
    for await (const change of watcher) {
      seen.push(change);
      if (change.type === 'remove' && change.path.endsWith('/sub/new')) break;
    }
    const has = (type: string, path: string, directory = false): void =>
      expect(seen).toContainEqual({ type, path: `/t/watched/${path}`, directory });
    has('create', 'sub/new');
    has('modify', 'sub/new');
    has('remove', 'old');
    has('create', 'sub/moved');
    has('create', 'deep', true);
    has('create', 'deep/er', true);
    has('remove', 'sub/new');
    expect(await watcher.next()).toEqual({ done: true, value: undefined });
  });

  test('end a watch that waits, and report what cannot be watched', async () => {
    const controller = new AbortController();
    const watcher = files.watch('/t/watched', { signal: controller.signal });
    await watcher.ready;
    const waiting = watcher.next();
    controller.abort();
    expect(await waiting).toEqual({ done: true, value: undefined });
    const closed = files.watch('/t/watched');
    const next = closed.next();
    await closed.close();
    expect(await next).toEqual({ done: true, value: undefined });
    expect(await failure(files.watch('/t/none').next())).toEqual(['ERR_FILE_NOT_FOUND', 'ENOENT']);
    expect(await failure(files.watch('/t/none').ready)).toEqual(['ERR_FILE_NOT_FOUND', 'ENOENT']);
  });

  test('many at once', async () => {
    const numbers = Array.from({ length: 40 }, (_, i) => i);
    await Promise.all(numbers.map((i) => files.write(`/t/p${i}`, `content ${i}`)));
    const contents = await Promise.all(numbers.map((i) => files.readText(`/t/p${i}`)));
    expect(contents).toEqual(numbers.map((i) => `content ${i}`));
    await Promise.all(numbers.map((i) => files.remove(`/t/p${i}`)));
  });
});

describeGuest('files of a sandbox that ends', () => {
  test(
    'fail with its end',
    async () => {
      const ending = await Sandbox.create(small({ name: 'files-end' }));
      await ending.files.write('/x', 'x');
      const { files: gone } = ending;
      const watcher = gone.watch('/tmp');
      await watcher.ready;
      const next = rejection(watcher.next());
      await ending.kill();
      expect((await next).code).toBe('ERR_SANDBOX_STOPPED');
      expect((await rejection(gone.read('/x'))).code).toBe('ERR_SANDBOX_NOT_RUNNING');
      expect((await rejection(gone.stat('/x'))).code).toBe('ERR_SANDBOX_NOT_RUNNING');
      await ending.close();
    },
    BOOT_TIMEOUT_MS,
  );
});
