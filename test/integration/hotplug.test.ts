import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type DeviceHandle, Machine } from '../../lib/machine/index.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import {
  type AgentGuest,
  bootAgentGuest,
  copySparse,
  shell,
  wake,
} from '../helpers/agent-guest.js';
import { BOOT_TIMEOUT_MS, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const MEMORY_MIB = 128;
const UPPER_MIB = 64;
const RAW_BYTES = 64 * 1024;

let directory = '';
const at = (name: string): string => join(directory, name);

/** A disk that begins with `text`. */
async function rawDisk(name: string, text: string): Promise<string> {
  await writeFile(at(name), text);
  await truncate(at(name), RAW_BYTES);
  return at(name);
}

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-hotplug-'));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

describeGuest('a guest with hotplug slots', () => {
  let guest: AgentGuest;
  const emulated = (): number =>
    guest.machine
      .stats()
      .vcpus.reduce((sum, { emulatedInstructions }) => sum + emulatedInstructions, 0);

  /** Its name in the guest, too. */
  async function plug(id: string, path: string): Promise<{ device: DeviceHandle; node: string }> {
    const device = await guest.machine.attachDrive({ id, path });
    return { device, node: await guest.agent.bindSlot(device.slot) };
  }

  async function unplug(device: DeviceHandle): Promise<void> {
    await guest.agent.unbindSlot(device.slot);
    await guest.machine.detach(device);
  }

  beforeAll(async () => {
    await createUpperDisk(at('upper.ext4'), UPPER_MIB);
    const more = { hotplugSlots: 2, vcpus: 1, maxVcpus: 2 };
    guest = await bootAgentGuest(at('upper.ext4'), MEMORY_MIB, more);
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await guest?.machine.close();
  });

  test('a file system comes, is written, and goes', async () => {
    await createUpperDisk(at('data.ext4'), UPPER_MIB);
    const before = emulated();
    const { device, node } = await plug('data', at('data.ext4'));
    console.info(`attaching and binding took ${emulated() - before} guest instructions`);
    expect(device).toMatchObject({ id: 'data', slot: 5 });
    expect(node).toBe('/dev/vdc');
    expect(await shell(guest, 'cat /sys/block/vdc/serial')).toBe('data');
    await shell(guest, `mkdir -p /mnt/data && mount -t ext4 ${node} /mnt/data`);
    await shell(guest, 'echo stays > /mnt/data/file; sync');

    // In use: neither the guest nor the host lets go of it.
    const busy = await rejection(guest.agent.unbindSlot(device.slot));
    expect(busy).toMatchObject({ code: 'ERR_DEVICE_IN_USE', errno: 'EBUSY' });
    const held = await rejection(guest.machine.detach(device));
    expect(held).toMatchObject({ code: 'ERR_DEVICE_IN_USE' });
    expect(await shell(guest, 'cat /mnt/data/file')).toBe('stays');

    await shell(guest, 'umount /mnt/data');
    await unplug(device);
    expect(await shell(guest, 'ls /dev/vd*')).toBe('/dev/vda\n/dev/vdb');
    expect(guest.machine.stats().drives).not.toHaveProperty('data');

    const again = await plug('again', at('data.ext4'));
    expect(again.device.slot).toBe(device.slot);
    const read = `mount -t ext4 ${again.node} /mnt/data && cat /mnt/data/file; umount /mnt/data`;
    expect(await shell(guest, read)).toBe('stays');
    await unplug(again.device);
  });

  test('two disks at once, each with its own content', async () => {
    const first = await plug('first', await rawDisk('first', 'one'));
    const second = await plug('second', await rawDisk('second', 'two'));
    expect(await shell(guest, `head -c 3 ${first.node}; head -c 3 ${second.node}`)).toBe('onetwo');
    await shell(guest, `echo new | dd of=${second.node} conv=notrunc,fsync 2>&1`);
    expect((await readFile(at('second'))).subarray(0, 4).toString()).toBe('new\n');

    const full = await rejection(guest.machine.attachDrive({ id: 'x', path: at('first') }));
    expect(full).toMatchObject({ code: 'ERR_NO_FREE_SLOT' });
    await unplug(first.device);
    await unplug(second.device);
  });

  test('the file of a disk grows, and another comes in its place', async () => {
    const { machine } = guest;
    const path = await rawDisk('grows', 'before');
    const { device, node } = await plug('grows', path);
    const size = `cat /sys/block/${basename(node)}/size`;
    const content = `dd if=${node} iflag=direct bs=512 count=1 2>/dev/null | head -c 6`;
    expect(await shell(guest, size)).toBe(String(RAW_BYTES / 512));
    await truncate(path, 2 * RAW_BYTES);
    expect(await machine.resizeDrive('grows')).toEqual({ bytes: 2 * RAW_BYTES });
    await expect.poll(() => shell(guest, size)).toBe(String((2 * RAW_BYTES) / 512));

    await shell(guest, `printf after! | dd of=${node} conv=notrunc,fsync 2>/dev/null`);
    const other = await rawDisk('other', 'others');
    expect(await machine.swapDrive('grows', { path: other })).toEqual({ bytes: RAW_BYTES });
    await expect.poll(() => shell(guest, size)).toBe(String(RAW_BYTES / 512));
    expect(await shell(guest, content)).toBe('others');
    // The old one is free, with what the guest has written.
    expect((await readFile(path)).subarray(0, 6).toString()).toBe('after!');
    await machine.swapDrive('grows', { path });
    expect(await shell(guest, content)).toBe('after!');

    for (const [id, file, code] of [
      ['grows', at('nowhere'), 'ERR_DRIVE_NOT_FOUND'],
      ['grows', directory, 'ERR_DRIVE_INVALID'],
      ['nobody', other, 'ERR_DEVICE_NOT_FOUND'],
      ['grows', '', 'ERR_INVALID_CONFIG'],
    ] as const) {
      expect(await rejection(machine.swapDrive(id, { path: file }))).toMatchObject({ code });
    }
    expect(await rejection(machine.resizeDrive('nobody'))).toMatchObject({
      code: 'ERR_DEVICE_NOT_FOUND',
    });
    await truncate(path, 0);
    expect(await rejection(machine.resizeDrive('grows'))).toMatchObject({
      code: 'ERR_DRIVE_INVALID',
    });
    await unplug(device);
  });

  test('a disk has limits, and writes through', async () => {
    const { machine } = guest;
    const path = await rawDisk('limited', 'limits');
    const handle = await machine.attachDrive({
      id: 'limited',
      path,
      cache: 'writethrough',
      rateLimit: { opsPerSecond: 8, burstOps: 1 },
    });
    const node = await guest.agent.bindSlot(handle.slot);
    expect(await shell(guest, `cat /sys/block/${basename(node)}/queue/write_cache`)).toBe(
      'write through',
    );
    const before = machine.stats().drives.limited?.reads ?? 0;
    const began = performance.now();
    await shell(guest, `dd if=${node} of=/dev/null iflag=direct bs=4k count=16 2>/dev/null`);
    const took = performance.now() - began;
    expect((machine.stats().drives.limited?.reads ?? 0) - before).toBeGreaterThanOrEqual(16);
    expect(took).toBeGreaterThan(1800);
    await shell(guest, `printf w | dd of=${node} conv=notrunc,fsync 2>/dev/null`);
    expect(machine.stats().drives.limited).toMatchObject({ flushes: 0, errors: 0 });
    expect((await readFile(path)).subarray(0, 6).toString()).toBe('wimits');
    await unplug(handle);

    for (const rateLimit of [{ opsPerSecond: 0 }, { burstBytes: 5 }, { speed: 1 }]) {
      const attaching = machine.attachDrive({ id: 'limited', path, rateLimit });
      expect(await rejection(attaching)).toMatchObject({ code: 'ERR_INVALID_CONFIG' });
    }
  });

  test('a disk past the page cache of the host', async () => {
    const path = await rawDisk('direct', 'before');
    const attaching = guest.machine.attachDrive({ id: 'direct', path, cache: 'direct' });
    const handle = await attaching.catch((error: { code: string; message: string }) => {
      expect(error).toMatchObject({ code: 'ERR_DRIVE_INVALID', message: /direct I\/O/ });
    });
    // The file system of temporary files has no such thing.
    if (handle === undefined) return;
    const node = await guest.agent.bindSlot(handle.slot);
    expect(await shell(guest, `cat /sys/block/${basename(node)}/queue/write_cache`)).toBe(
      'write back',
    );
    const pages = `dd if=/dev/urandom of=${node} bs=16k count=4 conv=notrunc,fsync 2>/dev/null`;
    const sum = `dd if=${node} iflag=direct bs=16k count=4 2>/dev/null | sha256sum | cut -c 1-64`;
    await shell(guest, pages);
    const written = (await readFile(path)).subarray(0, RAW_BYTES);
    expect(await shell(guest, sum)).toBe(createHash('sha256').update(written).digest('hex'));
    expect(guest.machine.stats().drives.direct).toMatchObject({ errors: 0 });
    await unplug(handle);
  });

  test('what cannot be is refused with its reason', async () => {
    const { machine, agent } = guest;
    const refused = async (promise: Promise<unknown>): Promise<unknown> =>
      (await rejection(promise)).code;
    const path = await rawDisk('refused', '');
    expect(await refused(machine.attachDrive({ id: 'upper', path }))).toBe('ERR_DEVICE_EXISTS');
    expect(await refused(machine.attachDrive({ id: 'x', path: at('none') }))).toBe(
      'ERR_DRIVE_NOT_FOUND',
    );
    expect(await refused(machine.attachDrive({ id: 'x', path: directory }))).toBe(
      'ERR_DRIVE_INVALID',
    );
    expect(await refused(machine.attachDrive({ id: 'x', path: at('upper.ext4') }))).toBe(
      'ERR_DRIVE_BUSY',
    );
    expect(await refused(machine.attachDrive({ path } as never))).toBe('ERR_INVALID_CONFIG');
    // A drive that it booted with stays.
    expect(await refused(machine.detach({ id: 'upper' }))).toBe('ERR_DEVICE_NOT_FOUND');
    const empty = await rejection(agent.bindSlot(6));
    expect(empty).toMatchObject({ code: 'ERR_GUEST_HOTPLUG', errno: 'ENODEV' });
    expect(await refused(agent.bindSlot(63))).toBe('ERR_GUEST_HOTPLUG');
    expect(await refused(agent.bindSlot(64))).toBe('ERR_RPC_INVALID_ARGUMENT');
    expect(await refused(agent.unbindSlot(6))).toBe('ERR_GUEST_HOTPLUG');
  });

  test('CPUs come on line and go off', async () => {
    const { machine, agent } = guest;
    expect(await shell(guest, 'nproc')).toBe('1');
    expect((await rejection(machine.resizeVcpus(2))).code).toBe('ERR_UNSUPPORTED');
    machine.onResizeVcpus((vcpus) => agent.setOnlineCpus(vcpus));
    await machine.resizeVcpus(2);
    expect(await shell(guest, 'nproc')).toBe('2');
    expect(await shell(guest, 'grep -c ^processor /proc/cpuinfo')).toBe('2');
    expect((await rejection(machine.resizeVcpus(3))).code).toBe('ERR_INVALID_CONFIG');
    expect((await rejection(agent.setOnlineCpus(3))).errno).toBe('ENODEV');
    await machine.resizeVcpus(1);
    expect(await shell(guest, 'nproc')).toBe('1');
  });

  test('a restored machine has its slots, with what was in them and empty', async () => {
    const { machine } = guest;
    await plug('kept', await rawDisk('kept', 'kept'));
    await machine.pause();
    await machine.snapshot(at('snapshot'));
    copySparse(at('upper.ext4'), at('clone.ext4'));
    await rawDisk('kept-clone', 'cloned');
    const clone = await Machine.restore(at('snapshot'), {
      drives: [
        { id: 'upper', path: at('clone.ext4') },
        { id: 'kept', path: at('kept-clone') },
      ],
    });
    const parent = guest;
    try {
      guest = await wake(clone);
      const { node } = await plug('later', await rawDisk('later', 'later'));
      expect(node).toBe('/dev/vdd');
      expect(await shell(guest, 'head -c 5 /dev/vdd; head -c 6 /dev/vdc')).toBe('latercloned');
      await guest.agent.unbindSlot(5);
      await clone.detach({ id: 'kept' });
      expect(await shell(guest, 'ls /dev/vd*')).toBe('/dev/vda\n/dev/vdb\n/dev/vdd');
    } finally {
      await clone.close();
      guest = parent;
    }
  });
});
