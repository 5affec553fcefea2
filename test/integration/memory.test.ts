import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Machine } from '../../lib/machine/index.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import { type AgentGuest, bootAgentGuest, shell, wake } from '../helpers/agent-guest.js';
import { asset, BOOT_TIMEOUT_MS, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const MIB = 1024 * 1024;
const BOOT_MIB = 96;
const MAX_MIB = 288;
/** A block of the guest's, 128 MiB, and part of the next. */
const GROWN_MIB = BOOT_MIB + 136;
const UPPER_MIB = 64;
/** Made, read and moved by an emulated guest in seconds. */
const FILE_MIB = 8;
const PATIENCE = { timeout: 120_000, interval: 200 };

let directory = '';

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-memory-'));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

const totalMib = async (guest: AgentGuest): Promise<number> =>
  Number(await shell(guest, "awk '/MemTotal/ { print $2 }' /proc/meminfo")) / 1024;

/** Of what came later, which is all of that zone: pages in use, in MiB. */
const movableUsedMib = async (guest: AgentGuest): Promise<number> => {
  const zone = await shell(
    guest,
    `awk '/^Node/ { on = /Movable/ } on && $1 == "pages" { free = $3 }
      on && $1 == "managed" { print $2 - free }' /proc/zoneinfo`,
  );
  return Number(zone) / 256;
};

describeGuest('a guest whose memory can grow', () => {
  let guest: AgentGuest;
  let before = 0;
  let digest = '';

  beforeAll(async () => {
    const upper = join(directory, 'upper.ext4');
    await createUpperDisk(upper, UPPER_MIB);
    guest = await bootAgentGuest(upper, BOOT_MIB, { maxMemoryMib: MAX_MIB, balloon: true });
    before = await totalMib(guest);
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await guest?.machine.close();
  });

  test('boots with what it was made with', () => {
    expect(before).toBeLessThan(BOOT_MIB);
    const bytes = BOOT_MIB * MIB;
    expect(guest.machine.stats().memory).toEqual({ bytes, targetBytes: bytes });
  });

  test('refuses sizes that it cannot have', async () => {
    const { machine } = guest;
    for (const mib of [-4, 0.5, Number.NaN, '128' as unknown as number]) {
      expect(await rejection(machine.resizeMemory(mib))).toMatchObject({
        code: 'ERR_INVALID_CONFIG',
      });
    }
    for (const mib of [BOOT_MIB - 4, MAX_MIB + 4, BOOT_MIB + 2, GROWN_MIB + 1]) {
      expect(await rejection(machine.resizeMemory(mib))).toMatchObject({
        code: 'ERR_INVALID_CONFIG',
        context: { bytes: mib * MIB, memoryBytes: BOOT_MIB * MIB, maxMemoryBytes: MAX_MIB * MIB },
      });
    }
    const signal = AbortSignal.abort();
    expect(await rejection(machine.resizeMemory(GROWN_MIB, { signal }))).toMatchObject({
      code: 'ERR_ABORTED',
    });
    expect(machine.stats().memory?.targetBytes).toBe(BOOT_MIB * MIB);
  });

  test('grows, and uses what it got', async () => {
    const { machine } = guest;
    expect(await machine.resizeMemory(GROWN_MIB)).toBe(GROWN_MIB);
    expect(machine.stats().memory).toEqual({
      bytes: GROWN_MIB * MIB,
      targetBytes: GROWN_MIB * MIB,
    });
    // The last of it was asked for before the guest's kernel made it its own.
    await expect.poll(() => totalMib(guest), PATIENCE).toBeGreaterThan(before + 130);
    const used = await movableUsedMib(guest);
    // In memory: /dev is a tmpfs.
    await shell(
      guest,
      `until [ "$(stat -c %s /dev/file)" -gt ${FILE_MIB * MIB} ]; do cat /bin/busybox; done > /dev/file`,
    );
    digest = await shell(guest, 'md5sum /dev/file');
    expect((await movableUsedMib(guest)) - used).toBeGreaterThan(FILE_MIB - 2);
  });

  test('goes on from a snapshot with it, and shrinks there with what it has in it', async () => {
    const { machine } = guest;
    await machine.pause();
    await machine.snapshot(join(directory, 'grown'));
    await machine.close();
    const clone = await Machine.restore(join(directory, 'grown'));
    const bytes = GROWN_MIB * MIB;
    expect(clone.stats().memory).toEqual({ bytes, targetBytes: bytes });
    guest = await wake(clone);
    expect(await clone.resizeMemory(BOOT_MIB)).toBe(BOOT_MIB);
    expect(await shell(guest, 'md5sum /dev/file')).toBe(digest);
    await expect.poll(() => totalMib(guest), PATIENCE).toBeLessThan(before + 2);
  });

  test('shares with a diff what it has not changed, and has none of what it gave back', async () => {
    const { machine } = guest;
    await machine.pause();
    const report = await machine.snapshot(join(directory, 'shrunk'), { kind: 'diff' });
    expect(report.kind).toBe('diff');
    await machine.close();
    const clone = await Machine.restore(join(directory, 'shrunk'));
    const bytes = BOOT_MIB * MIB;
    expect(clone.stats().memory).toEqual({ bytes, targetBytes: bytes });
    guest = await wake(clone);
    expect(await shell(guest, 'md5sum /dev/file')).toBe(digest);
    // And grows again.
    expect(await clone.resizeMemory(BOOT_MIB + 8)).toBe(BOOT_MIB + 8);
    await expect.poll(() => totalMib(guest), PATIENCE).toBeGreaterThan(before + 4);
  });

  test('answers with what it could when it can do no more', async () => {
    const { machine } = guest;
    await machine.pause();
    expect(await rejection(machine.resizeMemory(MAX_MIB))).toMatchObject({
      code: 'ERR_MACHINE_STATE',
    });
    await machine.resume();
    // No time at all.
    const got = await machine.resizeMemory(MAX_MIB, { patienceMs: 0 });
    expect(got).toBeLessThan(MAX_MIB);
    expect(machine.stats().memory?.targetBytes).toBe(MAX_MIB * MIB);
    await expect.poll(() => (machine.stats().memory?.bytes ?? 0) / MIB, PATIENCE).toBe(MAX_MIB);
    await machine.close();
    expect(await rejection(machine.resizeMemory(MAX_MIB))).toMatchObject({
      code: 'ERR_MACHINE_CLOSED',
    });
  });
});

describeGuest('a machine whose memory cannot grow, or has nobody to take it', () => {
  test('says so', async () => {
    const kernel = { path: asset('vmlinux') };
    const plain = await Machine.create({ kernel, vcpus: 1, memoryMib: 64 });
    await plain.start();
    expect(await rejection(plain.resizeMemory(64))).toMatchObject({ code: 'ERR_UNSUPPORTED' });
    expect(plain.stats().memory).toBeUndefined();
    await plain.close();
    const young = await Machine.create({ kernel, vcpus: 1, memoryMib: 64, maxMemoryMib: 128 });
    await young.start();
    expect(await rejection(young.resizeMemory(128))).toMatchObject({ code: 'ERR_GUEST_NO_DRIVER' });
    await young.close();
    for (const maxMemoryMib of [60, 66, 65.5]) {
      const made = Machine.create({ kernel, vcpus: 1, memoryMib: 64, maxMemoryMib });
      expect(await rejection(made)).toMatchObject({ code: 'ERR_INVALID_CONFIG' });
    }
  });
});
