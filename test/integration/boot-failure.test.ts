import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { SandboxError } from '../../lib/errors.js';
import { type ProgressEvent, Sandbox, type SandboxOptions } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';
import { countable } from '../helpers/resources.js';
import { programs, writeKernel } from '../helpers/tiny-kernel.js';

const home = useHome();
let directory = '';
let before: ReturnType<typeof countable>;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-boot-'));
  await failure(programs.powerOff());
  before = countable();
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

/** Every failure leaves no file, descriptor or thread. */
afterEach(async () => {
  expect(await readdir(join(home, 'sandboxes'))).toEqual([]);
  await expect.poll(countable, { timeout: 5000 }).toEqual(before);
});

async function failure(code: number[], options: SandboxOptions = {}): Promise<SandboxError> {
  const path = await writeKernel(join(directory, 'kernel'), code);
  return rejection(Sandbox.create({ memoryMib: 64, ...options, kernel: { path } }));
}

describeGuest('a guest that', () => {
  test('panics at boot', async () => {
    expect(await failure(programs.panic('Oops: it hurts'))).toMatchObject({
      code: 'ERR_BOOT_FAILED',
      stage: 'kernel',
      reason: 'guest_panic',
      consoleTail: 'Oops: it hurts',
      message: expect.stringContaining('Oops: it hurts'),
    });
  });

  test('powers off at boot', async () => {
    expect(await failure(programs.powerOff('bye'))).toMatchObject({
      code: 'ERR_BOOT_FAILED',
      reason: 'guest_poweroff',
      consoleTail: 'bye',
    });
  });

  test('resets at boot', async () => {
    expect(await failure(programs.reset())).toMatchObject({
      code: 'ERR_BOOT_FAILED',
      reason: 'guest_reset',
      message: expect.stringContaining('console is empty'),
    });
  });

  test('loses its descriptor tables at boot', async () => {
    expect(await failure(programs.tripleFault())).toMatchObject({ code: 'ERR_BOOT_FAILED' });
  });

  test.each(['idle', 'spin'] as const)('never becomes ready (%s)', async (program) => {
    const startedAt = performance.now();
    const error = await failure(programs[program]('still here'), { bootTimeoutMs: 300 });
    expect(error).toMatchObject({
      code: 'ERR_BOOT_TIMEOUT',
      stage: 'kernel',
      consoleTail: 'still here',
      context: { bootTimeoutMs: 300 },
    });
    expect(performance.now() - startedAt).toBeLessThan(5000);
    const stages = error.stages ?? [];
    expect(stages.map(({ stage }) => stage)).toEqual([
      'validate',
      'assets',
      'disk',
      'machine',
      'kernel',
    ]);
    expect(stages.at(-1)?.durationMs).toBeGreaterThan(50);
  });

  test('is given up', async () => {
    const reason = new Error('never mind');
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 100);
    const error = await failure(programs.idle(), { signal: controller.signal });
    expect(error).toMatchObject({ code: 'ERR_ABORTED', cause: reason });
  });

  test('is given up before it begins', async () => {
    const error = await failure(programs.idle(), { signal: AbortSignal.abort() });
    expect(error.code).toBe('ERR_ABORTED');
  });
});

describeGuest('a creation that fails early', () => {
  test.each([
    [{ kernel: { path: '/no/such/kernel' } }, 'ERR_KERNEL_NOT_FOUND'],
    [{ kernel: { path: '/etc/passwd' } }, 'ERR_KERNEL_INVALID'],
    [{ kernel: { args: ['x'.repeat(2048)] } }, 'ERR_COMMAND_LINE_TOO_LONG'],
    [{ cpus: 0 }, 'ERR_INVALID_CONFIG'],
    [{ image: 'python:3.12', pullPolicy: 'never' }, 'ERR_IMAGE_NOT_FOUND'],
    [{ image: { disk: '/no/such/disk' } }, 'ERR_IMAGE_READ'],
    [{ image: { disk: '/etc/passwd' } }, 'ERR_IMAGE_INVALID'],
    [{ image: { rootfs: '/etc/passwd' } }, 'ERR_IMAGE_READ'],
    [{ name: 'not/a/name' }, 'ERR_INVALID_CONFIG'],
  ])('%j: %s', async (options, code) => {
    const error = await rejection(Sandbox.create(options as SandboxOptions));
    expect(error.code).toBe(code);
  });

  test('by what onProgress throws', async () => {
    const error = new Error('from the callback');
    const onProgress = (event: ProgressEvent): void => {
      if (event.type === 'stage' && event.stage === 'kernel') throw error;
    };
    const path = await writeKernel(join(directory, 'kernel'), programs.idle());
    await expect(Sandbox.create({ kernel: { path }, onProgress })).rejects.toBe(error);
  });

  test('because the name is taken, while the other still boots', async () => {
    const path = await writeKernel(join(directory, 'idle'), programs.idle());
    const controller = new AbortController();
    let claimed = (): void => {};
    const booting = new Promise<void>((resolve) => {
      claimed = resolve;
    });
    const first = rejection(
      Sandbox.create({
        name: 'same',
        kernel: { path },
        signal: controller.signal,
        onProgress: (event) => {
          if (event.type === 'stage' && event.stage === 'kernel') claimed();
        },
      }),
    );
    await booting;
    const error = await rejection(Sandbox.create({ name: 'same' }));
    expect(error).toMatchObject({ code: 'ERR_SANDBOX_EXISTS', context: { name: 'same' } });
    controller.abort();
    expect((await first).code).toBe('ERR_ABORTED');
  });
});

describeGuest('the real kernel', () => {
  test(
    'that finds no init panics, and its console says so',
    async () => {
      const error = await rejection<SandboxError>(
        Sandbox.create(small({ kernel: { args: ['rdinit=/absent'] } })),
      );
      expect(error).toMatchObject({
        code: 'ERR_BOOT_FAILED',
        reason: 'guest_panic',
        stage: 'kernel',
      });
      expect(error.consoleTail).toMatch(/panic/i);
    },
    BOOT_TIMEOUT_MS,
  );
});
