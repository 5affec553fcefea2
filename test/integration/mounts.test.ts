import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Sandbox, type SandboxOptions } from '../../lib/index.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import { createVolume, readVolume, removeVolume } from '../../lib/volume/store.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

useHome();

const directory = mkdtempSync(join(tmpdir(), 'embervm-mounts-'));
const at = (...names: string[]): string => join(directory, ...names);

beforeAll(() => {
  for (const name of ['work', 'inner', 'reader', 'gone', 'programs']) mkdirSync(at(name));
  writeFileSync(at('work', 'from-host'), 'hello guest\n');
  writeFileSync(at('reader', 'file'), 'read me\n');
  writeFileSync(at('x.conf'), 'setting\n');
  writeFileSync(at('secret'), 'secret\n');
  symlinkSync(directory, at('work', 'way-out'));
  writeFileSync(at('programs', 'tool'), '#!/bin/sh\necho ran\n', { mode: 0o755 });
});

afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

describeGuest('a sandbox with mounts', () => {
  let sandbox: Sandbox;
  const run = async (script: string): Promise<string> => {
    const { stdout, stderr } = await sandbox.shell(script);
    return (stdout + stderr).trimEnd();
  };

  beforeAll(async () => {
    await createUpperDisk(at('data.ext4'), 64);
    await createVolume({ name: 'shared', kind: 'directory', quotaMib: 2, labels: {} });
    await createVolume({ name: 'disk', kind: 'disk', sizeMib: 96, labels: {} });
    // The first of its kind boots and leaves a template, which has none of the mounts.
    await (await Sandbox.create(small())).close();
    sandbox = await Sandbox.create(
      small({
        name: 'mounts',
        patches: [{ type: 'symlink', path: '/jump', target: '../../..' }],
        mounts: {
          '/work/inner': { bind: at('inner') },
          '/work/': { bind: at('work'), cache: 'none' },
          '/reader': { bind: at('reader'), readonly: true },
          '/etc/deep/x.conf': { bind: at('x.conf'), cache: 'none' },
          '/programs': { bind: at('programs'), noexec: true, nosuid: true, nodev: true },
          '/jump/tmp2': { tmpfs: { sizeMib: 1, mode: 0o700 } },
          '/data': { disk: at('data.ext4') },
          '/volume': { volume: 'shared' },
          '/disk': { volume: 'disk' },
        },
      }),
    );
  }, 2 * BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await sandbox?.close();
    await Sandbox.remove('mounts').catch(() => {});
  });

  test('starts warm', () => {
    expect(sandbox.bootReport().start).toBe('warm');
    console.info(
      'with 8 devices:',
      sandbox.bootReport().stages.map(({ stage, durationMs }) => [stage, Math.round(durationMs)]),
    );
  });

  test('shares directories both ways, and one inside the other', async () => {
    expect(await run('cat /work/from-host; echo hello host > /work/from-guest')).toBe(
      'hello guest',
    );
    expect(readFileSync(at('work', 'from-guest'), 'utf8')).toBe('hello host\n');
    expect(statSync(at('work', 'from-guest')).uid).toBe(process.geteuid?.());
    await run('echo nested > /work/inner/file');
    expect(readFileSync(at('inner', 'file'), 'utf8')).toBe('nested\n');
    expect(readdirSync(at('work', 'inner'))).toEqual([]);
    expect(await run('cat /work/way-out/secret')).toMatch(/No such file/);
    expect(await run('ls -d /work/../../../etc/passwd')).toBe('/work/../../../etc/passwd');
  });

  test('refuses changes where it is told to, also to a guest that mounts again', async () => {
    expect(await run('cat /reader/file')).toBe('read me');
    expect(await run('echo no > /reader/file')).toMatch(/Read-only/);
    expect(await run('mount -o remount,rw /reader; echo no > /reader/file')).toMatch(/Read-only/);
    expect(readFileSync(at('reader', 'file'), 'utf8')).toBe('read me\n');
  });

  test('shares a file, and nothing beside it', async () => {
    expect(await run('cat /etc/deep/x.conf; ls /etc/deep')).toBe('setting\nx.conf');
    await run('echo changed > /etc/deep/x.conf');
    expect(readFileSync(at('x.conf'), 'utf8')).toBe('changed\n');
    // What surrounds it, for a guest that mounts the device again.
    const tag = (await run('grep " /etc/deep/x.conf " /proc/self/mounts')).split(' ')[0];
    expect(tag).toMatch(/^mount\d$/);
    const again = `mkdir -p /mnt/again && mount -t virtiofs ${tag} /mnt/again; ls -A /mnt/again`;
    expect(await run(again)).not.toMatch(/secret|work/);
  });

  test('obeys noexec, and sizes of memory', async () => {
    expect(await run('/programs/tool; sh /programs/tool')).toMatch(
      /denied\s+ran$|ran[\s\S]*denied/,
    );
    expect(await run('grep " /programs " /proc/self/mounts')).toMatch(/nosuid,nodev,noexec/);
    // Through the link, which leads nowhere but to the root.
    expect(await run('stat -c %a /tmp2; df -k /tmp2 | tail -n 1')).toMatch(/^700\n.* 1024 /);
    expect(await run('dd if=/dev/zero of=/tmp2/large bs=1M count=2')).toMatch(/No space/);
  });

  test('writes to disks, which are clean when it has ended, and have it when it starts', async () => {
    expect(await run('echo kept > /data/file && echo kept > /disk/file; ls /data')).toMatch(/file/);
    const kilobytes = Number(await run("df -k /disk | tail -n 1 | awk '{print $2}'"));
    expect(kilobytes).toBeGreaterThan(80 * 1024);
    const busy = await rejection(
      Sandbox.create(small({ mounts: { '/data': { disk: at('data.ext4') } } })),
    );
    expect(busy).toMatchObject({ code: 'ERR_DRIVE_BUSY' });
  });

  test('has as much of a volume as its quota', async () => {
    const filled = await run('dd if=/dev/zero of=/volume/large bs=256k count=16');
    expect(filled).toMatch(/No space/);
    const { path } = await readVolume('shared');
    expect(statSync(join(path, 'large')).size).toBeLessThanOrEqual(2 * 1024 * 1024);
    expect(await run("df -k /volume | tail -n 1 | awk '{print $2}'")).toBe('2048');
    expect(await run('rm /volume/large && echo small > /volume/file; cat /volume/file')).toBe(
      'small',
    );
  });

  test('is not copied while it runs', async () => {
    expect(await rejection(sandbox.snapshot('no'))).toMatchObject({
      code: 'ERR_SNAPSHOT_UNSUPPORTED',
    });
    expect(await rejection(sandbox.fork())).toMatchObject({ code: 'ERR_SNAPSHOT_UNSUPPORTED' });
  });

  test('lives on when a directory of the host goes away', async () => {
    renameSync(at('inner'), at('moved'));
    rmSync(at('moved'), { recursive: true });
    expect(await run('cat /work/inner/file; echo x > /work/inner/new')).toMatch(
      /No such file|Stale/,
    );
    expect(await run('echo alive')).toBe('alive');
    mkdirSync(at('inner'));
  });

  test('keeps volumes from being removed, and the disk for itself', async () => {
    expect(await rejection(removeVolume('shared'))).toMatchObject({ code: 'ERR_VOLUME_IN_USE' });
    for (const readonly of [false, true]) {
      const second = Sandbox.create(small({ mounts: { '/d': { volume: 'disk', readonly } } }));
      expect(await rejection(second)).toMatchObject({ code: 'ERR_VOLUME_IN_USE' });
    }
    // A directory has any number of users.
    await using other = await Sandbox.create(small({ mounts: { '/v': { volume: 'shared' } } }));
    expect((await other.shell('cat /v/file; echo two > /v/second')).stdout).toBe('small\n');
    expect(await run('cat /volume/second')).toBe('two');
  });

  test('starts again with all of them', async () => {
    await sandbox.stop();
    const check = spawnSync('e2fsck', ['-fn', at('data.ext4')], { encoding: 'utf8' });
    // Where the host has no such tool, the guest has it mounted below.
    expect(check.error === undefined ? check.status : 0).toBe(0);
    // It has ended: nobody uses them.
    const reader = await Sandbox.create(
      small({ mounts: { '/d': { volume: 'disk', readonly: true } } }),
    );
    expect((await reader.shell('cat /d/file; touch /d/x')).stdout).toBe('kept\n');
    await reader.close();

    sandbox = await Sandbox.start('mounts');
    expect(await run('cat /data/file /disk/file /volume/file /work/from-host')).toBe(
      'kept\nkept\nsmall\nhello guest',
    );
    await sandbox.stop();
    await removeVolume('shared');
    await removeVolume('disk');
    expect(await rejection(Sandbox.start('mounts'))).toMatchObject({
      code: 'ERR_VOLUME_NOT_FOUND',
    });
  });

  test('says what is wrong before anything boots, and leaves nothing', async () => {
    writeFileSync(at('no-disk'), 'x');
    truncateSync(at('no-disk'), 1000);
    writeFileSync(at('no-fs'), 'x');
    truncateSync(at('no-fs'), 1024 * 1024);
    const code = async (mounts: SandboxOptions['mounts']): Promise<unknown> =>
      (await rejection(Sandbox.create(small({ name: 'wrong', mounts })))).code;
    const replaced = Sandbox.create(
      small({ name: 'mounts', replace: true, mounts: { '/a': { bind: at('none') } } }),
    );
    expect(await rejection(replaced)).toMatchObject({ code: 'ERR_SHARED_DIR_NOT_FOUND' });
    expect((await Sandbox.get('mounts')).status).toBe('stopped');
    expect(await code({ '/a': { bind: at('none') } })).toBe('ERR_SHARED_DIR_NOT_FOUND');
    expect(await code({ '/a': { bind: at('x.conf', 'below') } })).toBe('ERR_SHARED_DIR_NOT_FOUND');
    expect(await code({ '/a': { bind: '/dev/null' } })).toBe('ERR_SHARED_DIR_INVALID');
    expect(await code({ '/a': { volume: 'none' } })).toBe('ERR_VOLUME_NOT_FOUND');
    expect(await code({ '/a': { disk: at('none') } })).toBe('ERR_DRIVE_NOT_FOUND');
    expect(await code({ '/a': { disk: at('no-disk') } })).toBe('ERR_DRIVE_INVALID');
    chmodSync(at('no-fs'), 0o600);
    const failed = await rejection(
      Sandbox.create(small({ name: 'wrong', mounts: { '/a': { disk: at('no-fs') } } })),
    );
    expect(failed).toMatchObject({ code: 'ERR_MOUNT_FAILED', errno: 'EINVAL' });
    const taken = await rejection(
      Sandbox.create(small({ name: 'wrong', mounts: { '/bin/sh/x': { tmpfs: {} } } })),
    );
    expect(taken).toMatchObject({ code: 'ERR_MOUNT_FAILED', errno: 'ENOTDIR' });
    expect(await rejection(Sandbox.get('wrong'))).toMatchObject({ code: 'ERR_SANDBOX_NOT_FOUND' });
  });

  test('a copy has the memory that was mounted, with what is in it, and more', async () => {
    const origin = await Sandbox.create(
      small({ mounts: { '/memory': { tmpfs: { sizeMib: 1 } } } }),
    );
    await origin.shell('echo kept > /memory/file');
    await using copy = await origin.fork({ mounts: { '/host': { bind: at('reader') } } });
    await origin.close();
    const { stdout } = await copy.shell(
      'cat /memory/file /host/file; grep -c " /memory " /proc/self/mounts',
    );
    expect(stdout).toBe('kept\nread me\n1\n');
  });
});
