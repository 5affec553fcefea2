/** Disks that come and go, each once in the VM however often it is added. */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { ResolvedDeviceInfo } from '../../config/virtcontainers/container.js';
import { ConfigError, MachineError } from '../../errors.js';
import type { DeviceRecord } from '../record.js';
import type { Session } from '../session.js';

const WRITABLE = 0o222;

/** Adds it, or counts one more of those who have. */
export async function attachDevice(
  session: Session,
  info: ResolvedDeviceInfo,
): Promise<DeviceRecord> {
  const { record } = session;
  if (info.devType !== 'b') {
    throw new ConfigError(
      'ERR_UNSUPPORTED',
      `addDevice: devType "${info.devType}": only block devices ("b") are added to a VM`,
      { context: { option: 'devType' } },
    );
  }
  if (record.config.hypervisorConfig.disableBlockDeviceUse) {
    throw new ConfigError(
      'ERR_UNSUPPORTED',
      `addDevice: the sandbox "${record.id}" was made with disableBlockDeviceUse`,
      { context: { option: 'hypervisorConfig.disableBlockDeviceUse' } },
    );
  }
  const hostPath = await hostPathOf(info);
  const known = record.devices.find((device) => device.hostPath === hostPath);
  if (known !== undefined) {
    known.references += 1;
    return known;
  }
  const id = freeId(record.devices);
  const readOnly = (info.fileMode & WRITABLE) === 0;
  const { hypervisor } = await session.vm();
  const guestPath = await hypervisor.attachBlock({ id, path: hostPath, readOnly }, record.devices);
  const device: DeviceRecord = { id, info, hostPath, guestPath, references: 1 };
  record.devices.push(device);
  return device;
}

/** Takes it out when nobody has it any more. */
export async function detachDevice(session: Session, id: string): Promise<void> {
  const { record } = session;
  const device = record.devices.find((candidate) => candidate.id === id);
  if (device === undefined) {
    throw new MachineError('ERR_DEVICE_NOT_FOUND', `the sandbox has no device "${id}"`, {
      context: { sandbox: record.id, id },
    });
  }
  if (device.references > 1) {
    device.references -= 1;
    return;
  }
  const { hypervisor } = await session.vm();
  await hypervisor.detachBlock(id);
  record.devices = record.devices.filter((candidate) => candidate !== device);
}

function freeId(devices: readonly DeviceRecord[]): string {
  const taken = new Set(devices.map(({ id }) => id));
  for (let index = 0; ; index += 1) {
    const id = `drive-${index}`;
    if (!taken.has(id)) return id;
  }
}

/** What it was given, or what the kernel calls the device of these numbers. */
async function hostPathOf({ hostPath, major, minor, containerPath }: ResolvedDeviceInfo) {
  if (hostPath !== undefined) return resolve(hostPath);
  if (major === 0 && minor === 0) return resolve(containerPath);
  const text = await readFile(`/sys/dev/block/${major}:${minor}/uevent`, 'utf8').catch(() => '');
  const name = /^DEVNAME=(.+)$/m.exec(text)?.[1];
  return resolve('/dev', name ?? containerPath);
}
