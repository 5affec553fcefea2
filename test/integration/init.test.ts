import { expect, test } from 'vitest';
import type { SandboxError } from '../../lib/errors.js';
import { Sandbox } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

useHome();

describeGuest('an init', () => {
  test(
    'is PID 1 of all commands, and its end is that of the sandbox',
    async () => {
      const script =
        'trap "exit 7" TERM; echo "$WHO $container" >/tmp/said; while :; do sleep 0.2; done';
      const sandbox = await Sandbox.create(
        small({
          env: { WHO: 'sandbox' },
          scripts: { 'say-hi': '#!/bin/sh\necho "hi $1"\n' },
          init: { cmd: '/bin/sh', args: ['-c', script], env: { WHO: 'init' } },
        }),
      );
      try {
        expect(sandbox.bootReport().stages.at(-1)?.stage).toBe('init');
        const seen = await sandbox.shell(
          'until [ -s /tmp/said ]; do sleep 0.1; done; cat /tmp/said; tr "\\0" " " </proc/1/cmdline; ls -d /proc/[0-9]* | wc -l',
        );
        expect(seen.stdout).toMatch(/^init embervm\n\/bin\/sh -c trap/);
        // The init, its sleep, the shell, ls and wc; none of the guest's kernel.
        expect(Number(seen.stdout.trim().split('\n').at(-1)?.split(' ').at(-1))).toBeLessThan(8);

        expect(await sandbox.exec('say-hi', ['you'])).toMatchObject({ stdout: 'hi you\n' });
        const path = { env: { PATH: '/bin' } };
        expect(await sandbox.shell('echo $PATH', path)).toMatchObject({
          stdout: '/.embervm/scripts:/bin\n',
        });

        const beside = sandbox.exec('sleep', ['100']);
        await beside.pid;
        await sandbox.exec('kill', ['-TERM', '1']);
        expect(await sandbox.waitUntilStopped()).toMatchObject({
          status: 'stopped',
          reason: 'completed',
          exitCode: 7,
          signal: null,
        });
        // A PID namespace dies with its first process.
        expect(await beside).toMatchObject({ exitCode: null, signal: 'SIGKILL' });
      } finally {
        await sandbox.close();
      }
    },
    BOOT_TIMEOUT_MS,
  );

  test(
    'goes on in a fork and in a snapshot, each by itself',
    async () => {
      const script =
        'trap "echo told >&2" USR1; trap "exit 7" TERM; echo begun; while :; do sleep 0.2; done';
      const sandbox = await Sandbox.create(
        small({ init: { cmd: '/bin/sh', args: ['-c', script] } }),
      );
      const opened = [sandbox];
      try {
        const fork = await sandbox.fork();
        opened.push(fork);
        expect((await fork.exec('cat', ['/proc/1/cmdline'])).stdout).toContain('echo told');
        await fork.exec('kill', ['-USR1', '1']);
        const said = async (of: Sandbox): Promise<string> =>
          (await of.logs({ sources: ['stdout', 'stderr'] })).map(({ text }) => text).join('');
        await expect.poll(() => said(fork), { timeout: 60_000 }).toContain('told');
        await fork.exec('kill', ['-TERM', '1']);
        expect(await fork.waitUntilStopped()).toMatchObject({ reason: 'completed', exitCode: 7 });
        // The one that was copied has heard of none of it.
        expect(await said(sandbox)).not.toContain('told');
        expect((await sandbox.exec('cat', ['/proc/1/comm'])).stdout).toBe('sh\n');

        await sandbox.snapshot('with-init');
        await sandbox.close();
        const copy = await Sandbox.create({ snapshot: 'with-init', ephemeral: true });
        opened.push(copy);
        await copy.exec('kill', ['-TERM', '1']);
        expect(await copy.waitUntilStopped()).toMatchObject({ reason: 'completed', exitCode: 7 });
      } finally {
        await Promise.all(opened.map((each) => each.close()));
      }
    },
    2 * BOOT_TIMEOUT_MS,
  );

  test(
    'is found in the image',
    async () => {
      const sandbox = await Sandbox.create(small({ init: 'auto' }));
      try {
        const { stdout } = await sandbox.exec('cat', ['/proc/1/comm']);
        expect(stdout).toBe('init\n');
        expect(await sandbox.stop({ timeoutMs: 60_000 })).toMatchObject({
          status: 'stopped',
          reason: 'requested',
        });
      } finally {
        await sandbox.close();
      }
    },
    BOOT_TIMEOUT_MS,
  );

  test(
    'that is not there fails the boot, and says so',
    async () => {
      const error = await rejection<SandboxError>(
        Sandbox.create(small({ init: { cmd: '/no/init' } })),
      );
      expect(error).toMatchObject({ code: 'ERR_BOOT_FAILED', stage: 'init' });
      expect(error.message).toContain('/no/init');
      expect(error.cause).toMatchObject({ code: 'ERR_EXEC_FAILED', kind: 'not_found' });
    },
    BOOT_TIMEOUT_MS,
  );
});
