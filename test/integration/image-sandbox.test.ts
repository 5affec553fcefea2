import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { pull } from '../../lib/image/store/pull.js';
import type { StoredImage } from '../../lib/image/store/records.js';
import { Image, type ProgressEvent, Sandbox, Snapshot } from '../../lib/index.js';
import { describeGuest, small, useHome } from '../helpers/guest.js';
import { layerOf, MadeSource } from '../helpers/image-source.js';
import { rejection } from '../helpers/rejection.js';

const scratch = mkdtempSync(join(tmpdir(), 'embervm-image-guest-'));
afterAll(() => rmSync(scratch, { recursive: true }));

/** What Debian's static busybox makes of an empty directory; no /proc, no /dev, no /etc/hosts. */
function rootDirectory(): string {
  const root = join(scratch, 'root');
  for (const name of ['bin', 'etc', 'srv', 'home/worker']) {
    mkdirSync(join(root, name), { recursive: true });
  }
  copyFileSync('/bin/busybox', join(root, 'bin/busybox'));
  chmodSync(join(root, 'bin/busybox'), 0o755);
  for (const name of ['sh', 'cat', 'env', 'id', 'pwd', 'echo', 'ls', 'true']) {
    symlinkSync('busybox', join(root, 'bin', name));
  }
  chmodSync(join(root, 'home/worker'), 0o777);
  writeFileSync(join(root, 'etc/passwd'), 'worker:x:1234:1234::/home/worker:/bin/sh\n');
  writeFileSync(join(root, 'etc/group'), 'worker:x:1234:\n');
  writeFileSync(join(root, 'etc/mark'), 'of the image\n');
  return root;
}

const runConfig = {
  Env: ['PATH=/bin', 'GREETING=hello', 'OTHER=image'],
  User: 'worker',
  WorkingDir: '/srv',
  Entrypoint: ['/bin/echo', 'entry'],
  Cmd: ['by', 'default'],
  Labels: { 'org.example.kind': 'test', 'bad key': 'dropped' },
};

describeGuest('a sandbox of an image', () => {
  useHome('own');
  let stored: StoredImage;
  let sandbox: Sandbox;
  const events: ProgressEvent[] = [];
  const run = async (of: Sandbox, script: string): Promise<string> => {
    const { stdout, stderr } = await of.shell(script);
    expect(stderr).toBe('');
    return stdout.trim();
  };

  beforeAll(async () => {
    const root = rootDirectory();
    const tar = execFileSync('tar', ['-C', root, '--owner=0', '--group=0', '-c', '.'], {
      maxBuffer: 1e9,
    });
    const source = new MadeSource([layerOf(tar)], runConfig);
    stored = await pull({
      reference: 'made:1',
      name: 'docker.io/library/made:1',
      policy: 'if-missing',
      open: async () => source,
      report: () => {},
      signal: undefined,
    });
    sandbox = await Sandbox.create(
      small({
        name: 'mine',
        image: 'made:1',
        env: { OTHER: 'sandbox', THIRD: '3' },
        labels: { own: 'yes' },
        patches: [
          { type: 'text', path: '/opt/deep/note', content: 'text', mode: 0o4750 },
          { type: 'append', path: '/opt/deep/note', content: ' and more' },
          { type: 'text', path: '/etc/mark', content: 'of the patch', replace: true },
          { type: 'mkdir', path: '/opt/locked', mode: 0o700 },
          { type: 'mkdir', path: '/srv' },
          { type: 'symlink', path: '/opt/link', target: 'deep/note' },
          { type: 'remove', path: '/bin/ls' },
          { type: 'remove', path: '/no/such/thing' },
          { type: 'copyFile', from: join(scratch, 'root/etc/group'), path: '/opt/group' },
          { type: 'copyDir', from: join(scratch, 'root/etc'), path: '/opt/etc' },
        ],
        onProgress: (event) => events.push(event),
      }),
    );
  });
  afterAll(() => sandbox?.close());

  test('is patched before anything runs in it', async () => {
    const seen = await sandbox.exec(
      'sh',
      ['-c', 'cat /opt/link /etc/mark; cat /opt/group /opt/etc/mark; echo /bin/l*; echo /opt/*'],
      { user: '0' },
    );
    expect(seen.stdout).toBe(
      'text and moreof the patchworker:x:1234:\nof the image\n/bin/l*\n' +
        '/opt/deep /opt/etc /opt/group /opt/link /opt/locked\n',
    );
    expect((await sandbox.files.stat('/opt/deep/note')).mode & 0o7777).toBe(0o4750);
    expect((await sandbox.files.stat('/opt/locked')).mode & 0o7777).toBe(0o700);
    const error = await rejection(
      Sandbox.create(
        small({
          image: 'made:1',
          patches: [
            { type: 'mkdir', path: '/new' },
            { type: 'text', path: '/etc/mark', content: '' },
          ],
        }),
      ),
    );
    expect(error).toMatchObject({
      code: 'ERR_PATCH_FAILED',
      context: { index: 1, type: 'text', path: '/etc/mark' },
    });
  });

  test('has its files, environment, user and working directory', async () => {
    expect(await run(sandbox, 'cat /etc/group; id -un; pwd; echo $GREETING $OTHER $THIRD')).toBe(
      ['worker:x:1234:', 'worker', '/srv', 'hello sandbox 3'].join('\n'),
    );
    const given = await sandbox.exec('sh', ['-c', 'id -u; pwd; echo $GREETING'], {
      user: '0',
      cwd: '/etc',
      env: { GREETING: 'exec' },
    });
    expect(given.stdout).toBe('0\n/etc\nexec\n');
  });

  test('runs what it is for', async () => {
    expect((await sandbox.execDefault()).stdout).toBe('entry by default\n');
    expect((await sandbox.execDefault(['other'])).stdout).toBe('entry other\n');
    expect(sandbox.image).toEqual({
      reference: 'made:1',
      digest: stored.record.digest,
      entrypoint: ['/bin/echo', 'entry'],
      cmd: ['by', 'default'],
      labels: { 'org.example.kind': 'test', 'bad key': 'dropped' },
    });
  });

  test('tells where it comes from', async () => {
    const { config, labels } = await Sandbox.get('mine');
    expect(config.image).toBe('made:1');
    expect(config.user).toBe('worker');
    expect(labels).toEqual({ own: 'yes', 'org.example.kind': 'test' });
    expect(events).toContainEqual({
      type: 'done',
      reference: 'made:1',
      digest: stored.record.digest,
      cached: true,
    });
    expect(sandbox.bootReport().stages.map(({ stage }) => stage)).toContain('image');
  });

  test('copies go on with it, and start as fast as others', async () => {
    await run(sandbox, 'echo written > /home/worker/file');
    await using fork = await sandbox.fork();
    expect(await run(fork, 'cat /home/worker/file /etc/group; echo $OTHER')).toBe(
      'written\nworker:x:1234:\nsandbox',
    );
    expect(fork.image?.digest).toBe(stored.record.digest);
    await using second = await Sandbox.create(small({ image: stored.record.digest }));
    expect(second.bootReport().start).toBe('warm');
    expect(await run(second, 'cat /etc/mark')).toBe('of the image');
    await sandbox.snapshot('kept');
  });

  test('keeps it as long as it is there, also when it has ended', async () => {
    expect(await rejection(Image.remove('made:1'))).toMatchObject({ code: 'ERR_IMAGE_IN_USE' });
    await sandbox.stop();
    expect(await rejection(Image.remove(stored.record.digest))).toMatchObject({
      code: 'ERR_IMAGE_IN_USE',
      context: { user: 'the sandbox "mine"' },
    });
    expect((await Image.prune()).digests).toEqual([]);
    sandbox = await Sandbox.start('mine');
    expect(await run(sandbox, 'cat /home/worker/file /etc/group')).toBe('written\nworker:x:1234:');
    await sandbox.stop();
    await Sandbox.remove('mine');
    expect(await rejection(Image.remove('made:1'))).toMatchObject({
      code: 'ERR_IMAGE_IN_USE',
      context: { user: 'the snapshot "kept"' },
    });
    await using copy = await Sandbox.create({ snapshot: 'kept', name: 'copy' });
    expect(await run(copy, 'cat /home/worker/file; pwd')).toBe('written\n/srv');
    await Snapshot.remove('kept');
    expect(await rejection(Image.remove('made:1'))).toMatchObject({
      context: { user: 'the sandbox "copy"' },
    });
    await copy.kill();
    await Sandbox.remove('copy');
    await Image.remove('made:1');
    expect(existsSync(stored.rootPath)).toBe(false);
  });
});
