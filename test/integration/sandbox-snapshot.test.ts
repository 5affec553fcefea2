import { readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Sandbox, Snapshot } from '../../lib/index.js';
import { readSnapshot } from '../../lib/state/snapshots/store.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';
import { countableBesideGuests } from '../helpers/resources.js';

const home = useHome();

const run = async (sandbox: Sandbox, script: string): Promise<string> =>
  (await sandbox.shell(script)).stdout.trim();

const MACHINE_ID = '0123456789abcdef0123456789abcdef';
/** Five lines, of which no two machines have one. */
const IDENTITY =
  'hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; ' +
  'head -c 16 /dev/urandom | od -An -tx1';

const leftOvers = (): string[] =>
  readdirSync(join(home, 'snapshots')).filter((name) => name.startsWith('.'));

describeGuest('snapshots of sandboxes', () => {
  let origin: Sandbox;

  beforeAll(async () => {
    origin = await Sandbox.create(small({ name: 'origin', env: { COLOUR: 'blue' } }));
    await run(
      origin,
      `echo disk > /disk && mkdir /m && mount -t tmpfs none /m && echo memory > /m/note &&
       echo ${MACHINE_ID} > /etc/machine-id && ${IDENTITY}`,
    );
  }, BOOT_TIMEOUT_MS);
  afterAll(async () => origin.close());

  test('one of a running sandbox has its memory and its disk', async () => {
    const snapshot = await origin.snapshot('saved', {
      description: 'as it was',
      labels: { kind: 'test' },
    });
    expect(snapshot).toMatchObject({
      name: 'saved',
      kind: 'memory',
      source: 'origin',
      description: 'as it was',
      labels: { kind: 'test' },
    });
    expect(origin.status).toBe('running');
    await run(origin, 'echo later > /disk; echo later > /m/note');
    await snapshot.verify();

    await using copy = await Sandbox.create({ snapshot: 'saved', env: { SIZE: 'small' } });
    expect(copy.bootReport().start).toBe('warm');
    expect(await run(copy, 'cat /disk /m/note; echo $COLOUR $SIZE; hostname')).toBe(
      `disk\nmemory\nblue small\n${copy.name}`,
    );
    expect(await run(origin, 'cat /disk /m/note')).toBe('later\nlater');
    expect((await Snapshot.list({ labels: { kind: 'test' } })).map(({ name }) => name)).toEqual([
      'saved',
    ]);
    expect(await Snapshot.list({ labels: { kind: 'other' } })).toEqual([]);
    expect(leftOvers()).toEqual([]);
  });

  test('one goes through an archive, with its memory and its disk', async () => {
    const archive = join(home, 'carried.tar.gz');
    const snapshot = await origin.snapshot('carried');
    await snapshot.export(archive);
    // The guest has 128 MiB of memory and a disk of 4 GiB.
    expect(statSync(archive).size).toBeLessThan(64 * 1024 * 1024);
    const [memory, disk] = (await run(origin, 'cat /m/note /disk')).split('\n');
    await snapshot.remove();
    const imported = await Snapshot.import(archive, { name: 'arrived' });
    rmSync(archive);
    await imported.verify();
    await using copy = await Sandbox.create({ snapshot: 'arrived' });
    expect(copy.bootReport().start).toBe('warm');
    expect(await run(copy, 'cat /m/note /disk; echo $COLOUR')).toBe(`${memory}\n${disk}\nblue`);
    await imported.remove();
    expect(leftOvers()).toEqual([]);
  });

  test('two at once are no twins, and outlive the snapshot', async () => {
    await origin.snapshot('gone', { replace: true });
    const copies = await Promise.all([
      Sandbox.create({ snapshot: 'gone' }),
      Sandbox.create({ snapshot: 'gone', hostname: 'named' }),
    ]);
    try {
      await Snapshot.remove('gone');
      const [a = [], b = []] = await Promise.all(
        copies.map(async (copy) => (await run(copy, IDENTITY)).split('\n')),
      );
      expect(a).toHaveLength(5);
      for (const line of a) expect(b).not.toContain(line);
      expect(b[0]).toBe('named');
      expect(await run(copies[0], 'ls -R /etc /bin >/dev/null; cat /m/note')).toBe('later');
    } finally {
      await Promise.all(copies.map((copy) => copy.close()));
    }
    expect(await rejection(Sandbox.create({ snapshot: 'gone' }))).toMatchObject({
      code: 'ERR_SNAPSHOT_NOT_FOUND',
    });
  });

  test('forks share an instant and nothing else', async () => {
    // Connections of the tests before are closed a moment after their ends.
    await new Promise((resolve) => setTimeout(resolve, 500));
    const held = countableBesideGuests();
    const forks = await Promise.all([origin.fork(), origin.fork(), origin.fork()]);
    try {
      await Promise.all(forks.map((fork, index) => run(fork, `echo ${index} > /m/note`)));
      expect(await Promise.all(forks.map((fork) => run(fork, 'cat /m/note /disk')))).toEqual([
        '0\nlater',
        '1\nlater',
        '2\nlater',
      ]);
      const before = (await run(origin, IDENTITY)).split('\n');
      const identities = await Promise.all(forks.map((fork) => run(fork, IDENTITY)));
      const lines = [...before, ...identities.flatMap((identity) => identity.split('\n'))];
      expect(lines).toHaveLength(4 * 5);
      expect(new Set(lines).size).toBe(lines.length);
      expect(before).toContain(MACHINE_ID);
      const [again] = forks;
      await using second = await (again as Sandbox).fork();
      expect(await run(second, 'cat /m/note')).toBe('0');
      expect(leftOvers()).toEqual([]);
    } finally {
      await Promise.all(forks.map((fork) => fork.close()));
    }
    expect(await run(origin, 'cat /m/note')).toBe('later');
    // The connection of the last command is closed a moment after its end.
    await expect.poll(countableBesideGuests).toEqual(held);
  });

  test('a fork of a paused sandbox runs, the sandbox stays paused', async () => {
    await origin.pause();
    try {
      await using fork = await origin.fork();
      expect([origin.status, fork.status]).toEqual(['paused', 'running']);
      expect(await run(fork, 'cat /m/note')).toBe('later');
    } finally {
      await origin.resume();
    }
    expect(await run(origin, 'cat /m/note')).toBe('later');
  });

  test('a command that runs goes on in the origin, and ends in the copy', async () => {
    const command = origin.shell(
      'echo begun; while ! test -e /m/go; do sleep 0.1; done; echo went',
    );
    const alive = `kill -0 ${await command.pid} 2>/dev/null && echo alive || echo gone`;
    await using fork = await origin.fork();
    await expect.poll(() => run(fork, alive), { timeout: 10_000 }).toBe('gone');
    expect(await run(origin, alive)).toBe('alive');
    await run(origin, 'touch /m/go');
    expect((await command).stdout).toBe('begun\nwent\n');
  });

  test('what a copy cannot change is refused by its name', async () => {
    const refused = async (options: object): Promise<unknown> => {
      const { code, context } = await rejection(Sandbox.create({ snapshot: 'saved', ...options }));
      return [code, context.option];
    };
    expect(await refused({ memoryMib: 256 })).toEqual(['ERR_INVALID_CONFIG', 'memoryMib']);
    expect(await refused({ cpus: 2 })).toEqual(['ERR_INVALID_CONFIG', 'cpus']);
    expect(await refused({ image: 'busybox' })).toEqual(['ERR_INVALID_CONFIG', 'image']);
    expect(await refused({ warmStart: 'off' })).toEqual(['ERR_INVALID_CONFIG', 'warmStart']);
    expect(await rejection(origin.fork({ cpus: 2 } as object))).toMatchObject({
      code: 'ERR_INVALID_CONFIG',
      context: { option: 'cpus' },
    });
    expect(await rejection(origin.snapshot('saved'))).toMatchObject({
      code: 'ERR_SNAPSHOT_EXISTS',
    });
    // What is said again is no change.
    await using copy = await Sandbox.create({ snapshot: 'saved', memoryMib: 128, cpus: 1 });
    expect(copy.status).toBe('running');
  });

  test('one snapshot of a sandbox is taken at a time', async () => {
    const [first, second] = await Promise.allSettled([
      origin.snapshot('a-time'),
      origin.snapshot('at-once'),
    ]);
    expect(first.status).toBe('fulfilled');
    expect((second as PromiseRejectedResult).reason).toMatchObject({ code: 'ERR_SNAPSHOT_BUSY' });
    await Snapshot.remove('a-time');
  });

  test('memory that is too short is told before it is mapped', async () => {
    await origin.snapshot('short');
    const { directory } = await readSnapshot('short');
    const memory = readdirSync(join(directory, 'machine')).filter((name) => name !== 'state');
    const file = join(directory, 'machine', memory.at(-1) ?? '');
    // Another file: the one there may be shared with a template, and be mapped.
    rmSync(file);
    writeFileSync(file, Buffer.alloc(4096));
    expect(await rejection(Sandbox.create({ snapshot: 'short' }))).toMatchObject({
      code: 'ERR_SNAPSHOT_INVALID',
    });
    await Snapshot.remove('short');
    expect((await Sandbox.list()).sandboxes.map(({ name }) => name)).toEqual(['origin']);
  });

  test(
    'one of a sandbox that has ended has its disk, and boots',
    async () => {
      const handle = await Sandbox.get('origin');
      await origin.stop();
      const snapshot = await handle.snapshot('disk');
      expect(snapshot.kind).toBe('disk');
      await snapshot.verify();
      await using copy = await Sandbox.create({
        snapshot: 'disk',
        memoryMib: 192,
        bootTimeoutMs: BOOT_TIMEOUT_MS,
      });
      expect(await run(copy, 'cat /disk; ls /m; echo $COLOUR')).toBe('later\nblue');
      // The first of its kind has booted, and left a template.
      await using again = await Sandbox.create({ snapshot: 'disk', memoryMib: 192 });
      expect(again.bootReport().start).toBe('warm');
      expect(await run(again, 'cat /disk; ls /m; hostname')).toBe(`later\n${again.name}`);
      const ids = [await run(copy, 'cat /etc/machine-id'), await run(again, 'cat /etc/machine-id')];
      expect(new Set([MACHINE_ID, ...ids]).size).toBe(3);
      expect(
        await rejection(Sandbox.create({ snapshot: 'disk', rootDiskMib: 8192 })),
      ).toMatchObject({ context: { option: 'rootDiskMib' } });
    },
    BOOT_TIMEOUT_MS,
  );
});
