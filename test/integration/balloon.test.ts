import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Machine } from '../../lib/machine/index.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import { type AgentGuest, bootAgentGuest, shell, wake } from '../helpers/agent-guest.js';
import { BOOT_TIMEOUT_MS, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const MIB = 1024 * 1024;
const MEMORY_MIB = 128;
const UPPER_MIB = 64;
/** What an emulated guest can hand over in a few seconds, page by page. */
const BALLOON_MIB = 16;
const PATIENCE = { timeout: 120_000, interval: 200 };

let directory = '';

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-balloon-'));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

describeGuest('a guest with a balloon', () => {
  let guest: AgentGuest;

  beforeAll(async () => {
    const upper = join(directory, 'upper.ext4');
    await createUpperDisk(upper, UPPER_MIB);
    guest = await bootAgentGuest(upper, MEMORY_MIB, { balloon: true });
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await guest?.machine.close();
  });

  const actualMib = (machine: Machine): number =>
    (machine.stats().balloon?.actualBytes ?? Number.NaN) / MIB;

  test('gives back what it has freed', async () => {
    const { machine } = guest;
    // In memory: /dev is a tmpfs.
    await shell(guest, 'dd if=/dev/zero of=/dev/file bs=1M count=20 2>&1');
    const full = await machine.residentBytes();
    const reported = machine.stats().balloon?.reportedBytes ?? 0;
    await shell(guest, 'rm /dev/file');
    await expect
      .poll(async () => (full - (await machine.residentBytes())) / MIB, PATIENCE)
      .toBeGreaterThan(12);
    expect((machine.stats().balloon?.reportedBytes ?? 0) - reported).toBeGreaterThan(12 * MIB);
    expect(actualMib(machine)).toBe(0);
  });

  test('tells about its memory', async () => {
    const { machine } = guest;
    const statistics = await machine.balloonStatistics();
    const { totalBytes = 0, freeBytes = 0, availableBytes = 0 } = statistics;
    expect(totalBytes).toBeGreaterThan(64 * MIB);
    expect(totalBytes).toBeLessThan(MEMORY_MIB * MIB);
    expect(freeBytes).toBeGreaterThan(8 * MIB);
    expect(freeBytes).toBeLessThan(totalBytes);
    expect(availableBytes).toBeLessThan(totalBytes);
    // Everybody who asks at once gets an answer.
    const answers = await Promise.all([machine.balloonStatistics(), machine.balloonStatistics()]);
    for (const answer of answers) expect(answer.totalBytes).toBe(totalBytes);
  });

  test('hands over as much as it is asked for, keeps it over a restore, and takes it back', async () => {
    const { machine } = guest;
    const before = (await machine.balloonStatistics()).freeBytes ?? 0;
    await machine.setBalloon(BALLOON_MIB);
    await expect.poll(() => actualMib(machine), PATIENCE).toBe(BALLOON_MIB);
    const after = (await machine.balloonStatistics()).freeBytes ?? 0;
    expect((before - after) / MIB).toBeGreaterThan(BALLOON_MIB / 2);

    await machine.pause();
    await machine.snapshot(join(directory, 'snapshot'));
    await machine.close();
    const clone = await Machine.restore(join(directory, 'snapshot'));
    expect(clone.stats().balloon).toEqual({
      targetBytes: BALLOON_MIB * MIB,
      actualBytes: BALLOON_MIB * MIB,
      reportedBytes: 0,
    });
    guest = await wake(clone);
    expect((await clone.balloonStatistics()).totalBytes).toBeGreaterThan(64 * MIB);
    await clone.setBalloon(0);
    await expect.poll(() => actualMib(clone), PATIENCE).toBe(0);
  });

  test('refuses what makes no sense', async () => {
    const { machine } = guest;
    for (const mib of [-1, 0.5, Number.NaN, '1' as unknown as number]) {
      expect(await rejection(machine.setBalloon(mib))).toMatchObject({
        code: 'ERR_INVALID_CONFIG',
      });
    }
    expect(await rejection(machine.setBalloon(MEMORY_MIB + 1))).toMatchObject({
      code: 'ERR_INVALID_CONFIG',
      context: { bytes: (MEMORY_MIB + 1) * MIB, memoryBytes: MEMORY_MIB * MIB },
    });
    const signal = AbortSignal.abort();
    expect(await rejection(machine.balloonStatistics({ signal }))).toMatchObject({
      code: 'ERR_ABORTED',
    });
    await machine.close();
    for (const call of [machine.setBalloon(1), machine.balloonStatistics()]) {
      expect(await rejection(call)).toMatchObject({ code: 'ERR_MACHINE_CLOSED' });
    }
  });
});
