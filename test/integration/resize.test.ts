/** CPUs of a sandbox that come and go. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Sandbox } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

useHome();

const online = async (sandbox: Sandbox): Promise<number> =>
  Number((await sandbox.exec('nproc')).stdout);

describeGuest('a sandbox that can have more CPUs', () => {
  let sandbox: Sandbox;

  beforeAll(async () => {
    sandbox = await Sandbox.create(small({ cpus: 2, maxCpus: 3 }));
  }, BOOT_TIMEOUT_MS);

  afterAll(() => sandbox?.close());

  test('begins with those that it asks for', async () => {
    expect(await online(sandbox)).toBe(2);
    const stages = sandbox.bootReport().stages.map(({ stage }) => stage);
    expect(stages).toContain('cpus');
    expect((await sandbox.metrics()).cpu.cpus).toBe(3);
  });

  test('brings them on line and takes them off', async () => {
    await sandbox.resize({ cpus: 3 });
    expect(await online(sandbox)).toBe(3);
    // All of them run something.
    const { stdout } = await sandbox.shell(
      'for cpu in 0 1 2; do taskset $((1 << cpu)) echo $cpu; done',
    );
    expect(stdout).toBe('0\n1\n2\n');
    await sandbox.resize({ cpus: 1 });
    expect(await online(sandbox)).toBe(1);
    await Promise.all([sandbox.resize({ cpus: 3 }), sandbox.resize({ cpus: 2 })]);
    expect(await online(sandbox)).toBe(2);
  });

  test.each([
    [{ cpus: 4 }, 'ERR_INVALID_CONFIG', 'at most 3'],
    [{ cpus: 0 }, 'ERR_INVALID_CONFIG', 'at least 1'],
    [{ cpus: 1.5 }, 'ERR_INVALID_CONFIG', 'cpus'],
    [{}, 'ERR_INVALID_CONFIG', 'cpus'],
    [undefined, 'ERR_INVALID_CONFIG', 'object'],
    [{ cpus: 2, memoryMib: 256 }, 'ERR_UNSUPPORTED', 'memoryMib'],
  ])('refuses %j', async (options, code, message) => {
    const error = await rejection(sandbox.resize(options as { cpus: number }));
    expect(error.code).toBe(code);
    expect(error.message).toContain(message);
  });

  test('is not resized while it is paused', async () => {
    await sandbox.pause();
    const error = await rejection(sandbox.resize({ cpus: 1 }));
    expect(error.code).toBe('ERR_SANDBOX_NOT_RUNNING');
    await sandbox.resume();
    expect(await online(sandbox)).toBe(2);
  });

  test(
    'goes on from one template, whatever it begins with',
    async () => {
      await using one = await Sandbox.create(small({ cpus: 1, maxCpus: 3 }));
      expect(one.bootReport().start).toBe('warm');
      expect(await online(one)).toBe(1);
    },
    BOOT_TIMEOUT_MS,
  );

  test(
    'is copied with those that are on line, or with others',
    async () => {
      await sandbox.resize({ cpus: 3 });
      await using same = await sandbox.fork();
      expect(await online(same)).toBe(3);
      await using fewer = await sandbox.fork({ cpus: 1 });
      expect(await online(fewer)).toBe(1);
      expect(await online(sandbox)).toBe(3);
      for (const options of [{ cpus: 4 }, { maxCpus: 2 } as object]) {
        expect((await rejection(sandbox.fork(options))).code).toBe('ERR_INVALID_CONFIG');
      }
    },
    BOOT_TIMEOUT_MS,
  );
});
