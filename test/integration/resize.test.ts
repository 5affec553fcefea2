/** CPUs and memory of a sandbox that come and go. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Sandbox, Snapshot } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const home = useHome();

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
    [{ signal: new AbortController().signal }, 'ERR_INVALID_CONFIG', 'memoryMib has to be given'],
    [{ cpus: 2, memoryMib: 256 }, 'ERR_INVALID_CONFIG', 'a higher maxMemoryMib'],
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

const totalMib = async (sandbox: Sandbox): Promise<number> => {
  const { stdout } = await sandbox.exec('awk', ['/MemTotal/ { print $2 }', '/proc/meminfo']);
  return Number(stdout) / 1024;
};

describeGuest('a sandbox that can have more memory', () => {
  const BOOT_MIB = 128;
  const SIZE_MIB = BOOT_MIB + 64;
  const options = small({ maxMemoryMib: BOOT_MIB + 256 });
  let sandbox: Sandbox;

  beforeAll(async () => {
    sandbox = await Sandbox.create(options);
  }, BOOT_TIMEOUT_MS);

  afterAll(() => sandbox?.close());

  const limitMib = async (of: Sandbox): Promise<number> =>
    (await of.metrics()).memory.limitBytes / 2 ** 20;

  test('begins with that of its creation, and has more when it is told to', async () => {
    expect(await totalMib(sandbox)).toBeLessThan(BOOT_MIB);
    expect(await limitMib(sandbox)).toBe(BOOT_MIB);
    expect(await sandbox.resize({ memoryMib: SIZE_MIB })).toEqual({ memoryMib: SIZE_MIB });
    await expect
      .poll(() => totalMib(sandbox), { timeout: BOOT_TIMEOUT_MS })
      .toBeGreaterThan(BOOT_MIB + 32);
    expect(await limitMib(sandbox)).toBe(SIZE_MIB);
  });

  test.each([
    [{ memoryMib: BOOT_MIB + 260 }, 'at most 384'],
    [{ memoryMib: BOOT_MIB - 4 }, 'at least the memoryMib that it boots with, 128'],
    [{ memoryMib: BOOT_MIB + 2 }, 'by 4, from 128 on'],
    [{ memoryMib: 1.5 }, 'memoryMib'],
    [{ memoryMib: SIZE_MIB, cpus: 2 }, 'at most 1 cpus'],
  ])('refuses %j', async (target, message) => {
    const error = await rejection(sandbox.resize(target));
    expect(error.code).toBe('ERR_INVALID_CONFIG');
    expect(error.message).toContain(message);
    expect(await limitMib(sandbox)).toBe(SIZE_MIB);
  });

  test('stops waiting when it is told to', async () => {
    const signal = AbortSignal.abort();
    const error = await rejection(sandbox.resize({ memoryMib: BOOT_MIB, signal }));
    expect(error.code).toBe('ERR_ABORTED');
    expect(await limitMib(sandbox)).toBe(SIZE_MIB);
  });

  test(
    'is copied with what it has, and each goes its own way',
    async () => {
      await using copy = await sandbox.fork();
      expect(await limitMib(copy)).toBe(SIZE_MIB);
      expect(await copy.resize({ memoryMib: BOOT_MIB })).toEqual({ memoryMib: BOOT_MIB });
      await expect.poll(() => totalMib(copy), { timeout: BOOT_TIMEOUT_MS }).toBeLessThan(BOOT_MIB);
      expect(await limitMib(sandbox)).toBe(SIZE_MIB);
      expect(await totalMib(sandbox)).toBeGreaterThan(BOOT_MIB + 32);
      const fixed = await rejection(sandbox.fork({ maxMemoryMib: 1024 } as object));
      expect(fixed.code).toBe('ERR_INVALID_CONFIG');
    },
    BOOT_TIMEOUT_MS,
  );

  test(
    'goes through an archive with what it has',
    async () => {
      const archive = join(home, 'grown.tar');
      const snapshot = await sandbox.snapshot('grown');
      await snapshot.export(archive, { compress: false });
      await snapshot.remove();
      await Snapshot.import(archive, { name: 'arrived' });
      await using copy = await Sandbox.create({ snapshot: 'arrived' });
      expect(await limitMib(copy)).toBe(SIZE_MIB);
      expect(await copy.resize({ memoryMib: BOOT_MIB + 256 })).toEqual({
        memoryMib: BOOT_MIB + 256,
      });
    },
    BOOT_TIMEOUT_MS,
  );

  test(
    'starts from a template of those that can have as much, and no other',
    async () => {
      await using warm = await Sandbox.create(options);
      expect(warm.bootReport().start).toBe('warm');
      expect(await limitMib(warm)).toBe(BOOT_MIB);
      expect(await warm.resize({ memoryMib: BOOT_MIB + 4 })).toEqual({ memoryMib: BOOT_MIB + 4 });
      await using plain = await Sandbox.create(small());
      expect(await plain.resize({ memoryMib: BOOT_MIB })).toEqual({ memoryMib: BOOT_MIB });
      const error = await rejection(plain.resize({ memoryMib: BOOT_MIB + 4 }));
      expect(error.code).toBe('ERR_INVALID_CONFIG');
    },
    BOOT_TIMEOUT_MS,
  );
});
