import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ExecError } from '../../lib/errors.js';
import { Sandbox } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

useHome();

describeGuest('a restricted sandbox', () => {
  let sandbox: Sandbox;

  beforeAll(async () => {
    sandbox = await Sandbox.create(
      small({ securityProfile: 'restricted', mounts: { '/memory': { tmpfs: {} } } }),
    );
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await sandbox?.close();
  });

  test('has commands that gain no privileges', async () => {
    const { stdout } = await sandbox.shell('grep NoNewPrivs /proc/self/status; id -u');
    expect(stdout).toBe('NoNewPrivs:\t1\n0\n');
  });

  test.each([
    ['mount -t tmpfs none /mnt', 'mount'],
    ['chroot / true', 'chroot'],
    ['mknod /tmp/null c 1 3', 'mknod'],
    ['hostname other', 'hostname'],
  ])('lets nobody %s', async (script, program) => {
    const { exitCode, stderr } = await sandbox.shell(script);
    expect(exitCode).not.toBe(0);
    expect(stderr).toMatch(new RegExp(`${program}.*(not permitted|denied)`, 'i'));
  });

  test('has a root without devices and set-user-ID programs, and a /dev with devices', async () => {
    const { stdout } = await sandbox.shell(
      'grep " / " /proc/self/mounts; echo x >/dev/null && echo y',
    );
    expect(stdout).toMatch(/nosuid,nodev/);
    expect(stdout).toMatch(/y\n$/);
  });

  test('has mounts without them, too', async () => {
    const { stdout } = await sandbox.shell('grep " /memory " /proc/self/mounts');
    expect(stdout).toMatch(/nosuid,nodev/);
  });

  test('still lets root do what is its own', async () => {
    const { stdout, stderr } = await sandbox.shell(
      'touch /tmp/f && chown user /tmp/f && chmod 600 /tmp/f && su user -c "cat /tmp/f && id -un"',
    );
    expect({ stdout, stderr }).toEqual({ stdout: 'user\n', stderr: '' });
  });

  test('obeys limits', async () => {
    const script = 'ulimit -n; ulimit -Hn; head -c 8192 /dev/zero >/tmp/big';
    const { stdout, signal, exitCode } = await sandbox.shell(script, {
      rlimits: { nofile: { soft: 32, hard: 64 }, fsize: 4096 },
    });
    expect(stdout).toBe('32\n64\n');
    expect(signal ?? exitCode).not.toBe(0);
    const { size } = JSON.parse(
      (await sandbox.shell('stat -c \'{"size":%s}\' /tmp/big')).stdout,
    ) as { size: number };
    expect(size).toBe(4096);
  });

  test('says which limit cannot be', async () => {
    const error = await rejection<ExecError>(
      sandbox.exec('true', [], { rlimits: { nofile: Number.POSITIVE_INFINITY } }),
    );
    expect(error).toMatchObject({
      code: 'ERR_EXEC_FAILED',
      kind: 'resource_limit',
      errno: 'EPERM',
    });
  });
});
