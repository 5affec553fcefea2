import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { SandboxError } from '../../lib/errors.js';
import { Sandbox } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';
import { countable } from '../helpers/resources.js';

const home = useHome();

describeGuest('a sandbox that ends while commands run', () => {
  let sandboxes: Sandbox[] = [];
  let before: ReturnType<typeof countable>;

  beforeAll(async () => {
    const first = await Sandbox.create(small());
    await first.exec('true');
    await first.close();
    before = countable();
    // Two CPUs for one of them: both machines boot at once, in one process.
    sandboxes = await Promise.all([
      Sandbox.create(small({ name: 'one', ephemeral: true })),
      Sandbox.create(small({ name: 'two', cpus: 2, ephemeral: true })),
    ]);
  }, 2 * BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await Promise.all(sandboxes.map((sandbox) => sandbox.close()));
  });

  const one = (): Sandbox => sandboxes[0] as Sandbox;
  const two = (): Sandbox => sandboxes[1] as Sandbox;

  test('next to another that runs: they are two', async () => {
    const results = await Promise.all([
      one().shell('hostname; nproc; echo 1 > /mark; cat /mark'),
      two().shell('hostname; nproc; echo 2 > /mark; cat /mark'),
    ]);
    expect(results.map(({ stdout }) => stdout)).toEqual(['one\n1\n1\n', 'two\n2\n2\n']);
  });

  test('both CPUs of one of them work', async () => {
    const { stdout } = await two().shell(
      'for cpu in 0 1; do taskset $((1 << cpu)) sh -c "cut -d \\" \\" -f 39 /proc/self/stat"; done',
    );
    expect(stdout).toBe('0\n1\n');
  });

  test('by a panic has the reason and the console', async () => {
    // The file system is told to panic on an error, and then of one.
    const script = `mkdir -p /mnt/upper && mount -t ext4 /dev/vdb /mnt/upper &&
      mount -o remount,errors=panic /mnt/upper && echo go && echo on purpose > /sys/fs/ext4/vdb/trigger_fs_error`;
    const waiting = rejection<SandboxError>(two().exec('sleep', ['1000']));
    const error = await rejection<SandboxError>(two().shell(script));
    expect(error).toMatchObject({ code: 'ERR_SANDBOX_CRASHED', reason: 'guest_panic' });
    expect(error.consoleTail).toMatch(/panic/i);
    expect(await waiting).toMatchObject({ code: 'ERR_SANDBOX_CRASHED', reason: 'guest_panic' });
    expect(await two().waitUntilStopped()).toMatchObject({
      status: 'crashed',
      reason: 'guest_panic',
    });
    expect(two().status).toBe('crashed');
    const late = await rejection(two().exec('true'));
    expect(late.code).toBe('ERR_SANDBOX_NOT_RUNNING');
  });

  test('does not harm the other', async () => {
    expect((await one().exec('echo', ['still here'])).stdout).toBe('still here\n');
  });

  test('by kill says so to the commands', async () => {
    const execution = one().shell('echo first; sleep 1000');
    const chunks: string[] = [];
    execution.stdout.on('data', (chunk) => chunks.push(String(chunk)));
    await expect.poll(() => chunks.join(''), { timeout: 60_000 }).toBe('first\n');
    const startedAt = performance.now();
    expect(await one().kill()).toMatchObject({ status: 'stopped', reason: 'killed' });
    expect(performance.now() - startedAt).toBeLessThan(5000);
    expect(await rejection(execution)).toMatchObject({
      code: 'ERR_SANDBOX_STOPPED',
      reason: 'killed',
    });
  });

  test('leaves nothing, however it ended', async () => {
    await Promise.all(sandboxes.map((sandbox) => sandbox.close()));
    expect(await readdir(join(home, 'sandboxes'))).toEqual([]);
    await expect.poll(countable, { timeout: 5000 }).toEqual(before);
  });
});

describeGuest('a guest that powers itself off', () => {
  test(
    'ends its sandbox, and the name is free again',
    async () => {
      const sandbox = await Sandbox.create(
        small({ name: 'again', rootDiskMib: 100, ephemeral: true }),
      );
      // The file system of the smaller template was grown to the size that was asked for.
      const { stdout } = await sandbox.shell("df -m / | awk 'END { print $2 }'");
      expect(Number(stdout)).toBeGreaterThan(70);
      const error = await rejection<SandboxError>(sandbox.exec('poweroff', ['-f']));
      expect(error).toMatchObject({ code: 'ERR_SANDBOX_STOPPED', reason: 'guest_poweroff' });
      expect(await sandbox.waitUntilStopped()).toMatchObject({
        status: 'stopped',
        reason: 'guest_poweroff',
      });
      await sandbox.close();
      await expect(
        Sandbox.create({ name: 'again', kernel: { path: '/no/such' } }),
      ).rejects.toMatchObject({ code: 'ERR_KERNEL_NOT_FOUND' });
    },
    BOOT_TIMEOUT_MS,
  );
});
