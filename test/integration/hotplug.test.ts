import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
