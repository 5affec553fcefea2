import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type EmbervmError, MachineError } from '../../lib/errors.js';
import { Machine, type MachineConfig } from '../../lib/machine/index.js';
import { asset, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';
import { countable } from '../helpers/resources.js';
import { elfKernel, programs, writeKernel } from '../helpers/tiny-kernel.js';

let directory = '';
let good = '';
let before: ReturnType<typeof countable>;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-bad-'));
  good = await writeKernel(join(directory, 'good'), programs.powerOff('alive'));
  // The first machine starts what stays: the thread pool, and the addon itself.
  await (await Machine.create(config())).close();
  before = countable();
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

function config(change: Partial<MachineConfig> = {}): MachineConfig {
  return { kernel: { path: good }, vcpus: 1, memoryMib: 64, ...change };
}

const at = (name: string): string => join(directory, name);

async function refused(change: Partial<MachineConfig>): Promise<EmbervmError> {
  return rejection(Machine.create(config(change)));
}

/** After each refusal nothing is left over, and the next machine runs. */
afterEach(async () => {
  await expect.poll(countable, { timeout: 5000 }).toEqual(before);
  const machine = await Machine.create(config());
  await machine.start();
  expect((await machine.waitUntilStopped()).reason).toBe('poweroff');
  expect(machine.consoleTail()).toContain('alive');
  await machine.close();
});

describeGuest('a kernel that', () => {
  test('is missing', async () => {
    const error = await refused({ kernel: { path: at('absent') } });
    expect(error).toBeInstanceOf(MachineError);
    expect(error).toMatchObject({ code: 'ERR_KERNEL_NOT_FOUND', errno: 'ENOENT' });
    expect(error.message).toContain(at('absent'));
  });

  test('is a directory', async () => {
    await mkdir(at('directory'), { recursive: true });
    const error = await refused({ kernel: { path: at('directory') } });
    expect(error.code).toBe('ERR_KERNEL_INVALID');
  });

  test.each([
    ['empty', Buffer.alloc(0)],
    ['text', Buffer.from('#!/bin/sh\necho no kernel\n')],
    ['zeroes', Buffer.alloc(100_000)],
    ['only an ELF magic', Buffer.from([0x7f, 0x45, 0x4c, 0x46])],
    ['cut in its headers', elfKernel(programs.idle()).subarray(0, 100)],
    ['cut in its segment', elfKernel(programs.idle('x'.repeat(100))).subarray(0, 200)],
  ])('is %s', async (name, bytes) => {
    await writeFile(at('bad'), bytes);
    const error = await refused({ kernel: { path: at('bad') } });
    expect(error.code, name).toBe('ERR_KERNEL_INVALID');
    expect(error.message).toContain(at('bad'));
  });

  test('is a real one, cut in half', async () => {
    const bytes = await readFile(asset('vmlinux'));
    await writeFile(at('half'), bytes.subarray(0, bytes.length / 2));
    expect((await refused({ kernel: { path: at('half') } })).code).toBe('ERR_KERNEL_INVALID');
  });

  test.each([
    ['beyond the memory', { address: 0x4000_0000 }],
    ['that would wrap around', { address: Number.MAX_SAFE_INTEGER - 1 }],
    ['longer than the memory', { memoryBytes: 2 ** 40 }],
    ['with more bytes in the file than in memory', { memoryBytes: 1 }],
    ['over the boot structures', { address: 0 }],
  ])('has a segment %s', async (_, change) => {
    await writeFile(at('segment'), elfKernel(programs.idle(), change));
    const error = await refused({ kernel: { path: at('segment') } });
    expect(error.code).toMatch(/^ERR_KERNEL_(INVALID|TOO_LARGE)$/);
  });

  test('has an initrd that is missing or does not fit', async () => {
    const missing = await refused({ kernel: { path: good, initrd: at('absent') } });
    expect(missing).toMatchObject({ code: 'ERR_KERNEL_NOT_FOUND', errno: 'ENOENT' });
    await writeFile(at('large'), Buffer.alloc(65 * 2 ** 20));
    const large = await refused({ kernel: { path: good, initrd: at('large') } });
    expect(large.code).toBe('ERR_KERNEL_TOO_LARGE');
  });
});

describeGuest('a drive that', () => {
  const drive = (path: string, readOnly = false): Promise<EmbervmError> =>
    refused({ drives: [{ path, readOnly }] });

  test('is missing', async () => {
    const error = await drive(at('absent'));
    expect(error).toMatchObject({ code: 'ERR_DRIVE_NOT_FOUND', errno: 'ENOENT' });
    expect(error.message).toContain(at('absent'));
  });

  test('is a directory', async () => {
    await mkdir(at('directory'), { recursive: true });
    expect((await drive(at('directory'), true)).code).toMatch(/^ERR_DRIVE_(INVALID|ACCESS)$/);
  });

  test.each([0, 1, 511, 513])('has %d bytes', async (size) => {
    await writeFile(at('odd'), Buffer.alloc(size));
    const error = await drive(at('odd'));
    expect(error.code).toBe('ERR_DRIVE_INVALID');
    expect(error.message).toContain(at('odd'));
  });

  test('is a character device or a loop of links', async () => {
    expect((await drive('/dev/null')).code).toBe('ERR_DRIVE_INVALID');
    await symlink(at('loop'), at('loop')).catch(() => {});
    expect((await drive(at('loop'))).code).toMatch(/^ERR_DRIVE_/);
  });

  test('another machine writes to', async () => {
    await writeFile(at('shared'), Buffer.alloc(4096));
    const first = await Machine.create(config({ drives: [{ path: at('shared') }] }));
    const error = await drive(at('shared'));
    await first.close();
    expect(error.code).toBe('ERR_DRIVE_BUSY');
  });
});

describeGuest('a size that', () => {
  test('is more CPUs than the host or the guest has numbers for', async () => {
    expect((await refused({ vcpus: 255 })).code).toBe('ERR_INVALID_CONFIG');
  });

  test('is more memory than the host has', async () => {
    expect((await refused({ memoryMib: 2 ** 24 })).code).toBe('ERR_INVALID_CONFIG');
  });

  test('is a command line that the kernel would cut', async () => {
    const args = ['x'.repeat(3000)];
    const error = await refused({ kernel: { path: good, args } });
    expect(error.code).toBe('ERR_COMMAND_LINE_TOO_LONG');
    expect(error.message).toMatch(/204[78]/);
  });
});
