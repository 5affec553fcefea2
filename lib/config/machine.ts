/** Configuration of a `Machine`. */

import { ConfigError } from '../errors.js';
import { abortSignal, hostPath, nonEmptyText, notBuilt, onlyBuilt, timeoutMs } from './common.js';
import { memoryMib, vcpuCount } from './host-limits.js';
import { parseConfig } from './parse.js';
import { type ResolvedSharedDir, type SharedDirConfig, sharedDirs } from './shared-dirs.js';
import * as z from './zod.js';

const DEFAULT_CONSOLE_BYTES = 64 * 1024;
const MAX_CONSOLE_BYTES = 64 * 1024 * 1024;
/** What GET_ID of virtio-blk can return. */
const MAX_DRIVE_ID = 20;
/** One fewer interrupt line for other devices each. */
const MAX_HOTPLUG_SLOTS = 8;
/** Letters of /dev/vd?, which the guest's own tools rely on. */
const MAX_DRIVES = 26;
/** The kernel's own limit is 2048 with the NUL. */
export const MAX_COMMAND_LINE = 2047;

/** A raw disk image as a virtio block device. */
export interface DriveConfig {
  /** What the guest reads as the serial number; `drive<n>` when absent. */
  id?: string | undefined;
  /** A regular file or block device whose size is a multiple of 512 bytes. */
  path: string;
  /** Refuse writes; default false. */
  readOnly?: boolean | undefined;
}

export interface KernelConfig {
  /** An ELF `vmlinux` or a bzImage. */
  path: string;
  /** Words of the kernel command line. The devices' own words are added. */
  args?: string[] | undefined;
  /** An initramfs, uncompressed or in a format that the kernel knows. */
  initrd?: string | undefined;
}

/** What `Machine.create` takes. */
export interface MachineConfig {
  kernel: KernelConfig;
  /** Virtual CPUs. */
  vcpus: number;
  /** How many {@link Machine.resizeVcpus} may bring on line; default `vcpus`. */
  maxVcpus?: number | undefined;
  /** Guest memory in MiB. */
  memoryMib: number;
  drives?: DriveConfig[] | undefined;
  /** Directories of the host for the guest to mount. Such a machine cannot be saved. */
  sharedDirs?: SharedDirConfig[] | undefined;
  /** How many devices {@link Machine.attachDrive} may add at a time, 0 to 8; default 0. */
  hotplugSlots?: number | undefined;
  /** Absent: the guest has no vsock device. */
  vsock?: { cid?: number | undefined } | undefined;
  /** `capture` (default) keeps the last output; `none` gives the guest no console device. */
  console?: 'none' | 'capture' | undefined;
  /** How much console output is kept, in bytes; default 64 KiB. */
  consoleBytes?: number | undefined;
  /** Give the guest an entropy device; default true. */
  rng?: boolean | undefined;
}

export interface ResolvedMachineConfig {
  kernel: { path: string; args: string[]; initrd?: string | undefined };
  vcpus: number;
  maxVcpus?: number | undefined;
  memoryMib: number;
  drives: { id?: string | undefined; path: string; readOnly: boolean }[];
  sharedDirs: ResolvedSharedDir[];
  hotplugSlots: number;
  vsock?: { cid: number } | undefined;
  console: 'none' | 'capture';
  consoleBytes: number;
  rng: boolean;
}

/** A drive that comes while the machine runs: its id names it from then on. */
export interface AttachedDriveConfig extends DriveConfig {
  id: string;
}

export interface ResolvedAttachedDrive {
  id: string;
  path: string;
  readOnly: boolean;
}

export interface StopOptions {
  /** How long the guest may take before it is killed, in ms; default 10 000. 0 kills at once. */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface ResolvedStopOptions {
  timeoutMs: number;
  signal?: AbortSignal | undefined;
}

export interface SnapshotOptions {
  /**
   * `full` (default): all of memory. `diff`: only what changed since the snapshot
   * that this machine was restored from, whose files the new one shares; `full` for
   * a machine that was booted.
   */
  kind?: 'full' | 'diff' | undefined;
}

export interface ResolvedSnapshotOptions {
  directory: string;
  kind: 'full' | 'diff';
}

/** What may differ from the machine that the snapshot is of. */
export interface RestoreOverrides {
  /**
   * Other files for its drives, by their ids: as large as those they replace. With `readOnly`, a
   * snapshot of a machine where it was otherwise is refused.
   */
  drives?: { id: string; path: string; readOnly?: boolean | undefined }[] | undefined;
  /**
   * Refuse a snapshot with other drives than these; default false. For one that may be forged: it
   * names the files of its drives.
   */
  onlyTheseDrives?: boolean | undefined;
  vsock?: { cid?: number | undefined } | undefined;
  consoleBytes?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface ResolvedRestoreOptions {
  directory: string;
  drives: { id: string; path: string; readOnly?: boolean | undefined }[];
  onlyTheseDrives: boolean;
  vsock?: { cid?: number | undefined } | undefined;
  consoleBytes?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** A word of the kernel command line. */
export const kernelArgument: z.ZodType<string> = nonEmptyText.refine(
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is refused.
  (word) => !/[\x00-\x1f\x7f]/.test(word),
  'must not contain control characters',
);

const driveId = nonEmptyText.refine(
  (id) => new TextEncoder().encode(id).length <= MAX_DRIVE_ID,
  `has at most ${MAX_DRIVE_ID} bytes`,
);

const guestCid = z
  .int()
  .min(3, 'the smaller context ids are reserved')
  .max(2 ** 32 - 2, 'the larger context ids are reserved');

const consoleBytes = z.int().min(4096).max(MAX_CONSOLE_BYTES);

const drive = z.strictObject({
  id: driveId.optional().describe('serial number that the guest reads'),
  path: hostPath.describe('raw disk image'),
  readOnly: z.boolean().default(false).describe('refuse writes'),
});

const machineConfig = z.strictObject({
  kernel: z
    .strictObject({
      path: hostPath.describe('ELF vmlinux or bzImage'),
      args: z.array(kernelArgument).default([]).describe('words of the kernel command line'),
      initrd: hostPath.optional().describe('initramfs'),
    })
    .describe('what to boot'),
  vcpus: vcpuCount.describe('virtual CPUs'),
  maxVcpus: vcpuCount.optional().describe('virtual CPUs that can be on line'),
  memoryMib: memoryMib.describe('guest memory in MiB'),
  drives: z
    .array(drive)
    .max(MAX_DRIVES, 'the guest has no more drive letters')
    .default([])
    .describe('disks, in the order of /dev/vda, /dev/vdb, …'),
  vsock: z
    .strictObject({
      cid: guestCid.default(3).describe("the guest's context id"),
      socketPath: notBuilt('vsock.socketPath'),
    })
    .optional()
    .describe('virtio-vsock device'),
  console: onlyBuilt('console', ['none', 'capture'])
    .transform((value) => value ?? 'capture')
    .describe('what becomes of console output'),
  consoleBytes: consoleBytes
    .default(DEFAULT_CONSOLE_BYTES)
    .describe('console output that is kept, in bytes'),
  rng: z.boolean().default(true).describe('virtio-rng device'),
  memory: notBuilt('memory'),
  sharedDirs: sharedDirs.default([]).describe('directories of the host for the guest'),
  nics: notBuilt('nics'),
  balloon: notBuilt('balloon'),
  hotplugSlots: z
    .int()
    .min(0)
    .max(MAX_HOTPLUG_SLOTS)
    .default(0)
    .describe('empty slots for devices that are attached later'),
});

export const machineConfigSchema: z.ZodType<ResolvedMachineConfig> = machineConfig.refine(
  ({ vcpus, maxVcpus = vcpus }) => maxVcpus >= vcpus,
  { path: ['maxVcpus'], message: 'must not be less than vcpus' },
);

const attachedDrive: z.ZodType<ResolvedAttachedDrive> = drive.extend({ id: driveId });

const vcpuTarget = z.strictObject({
  vcpus: vcpuCount.describe('virtual CPUs on line'),
});

const stopOptions: z.ZodType<ResolvedStopOptions> = z.strictObject({
  timeoutMs: timeoutMs.default(10_000).describe('time for a graceful end, in ms'),
  signal: abortSignal.optional(),
});

const snapshotOptions: z.ZodType<ResolvedSnapshotOptions> = z.strictObject({
  directory: hostPath.describe('where the snapshot goes'),
  kind: z.enum(['full', 'diff']).default('full').describe('all of memory, or what changed'),
});

const restoreOptions: z.ZodType<ResolvedRestoreOptions> = z.strictObject({
  directory: hostPath.describe('where the snapshot is'),
  drives: z
    .array(z.strictObject({ id: driveId, path: hostPath, readOnly: z.boolean().optional() }))
    .default([])
    .describe('other files for drives'),
  onlyTheseDrives: z.boolean().default(false).describe('refuse other drives'),
  vsock: z
    .strictObject({ cid: guestCid.optional(), socketPath: notBuilt('vsock.socketPath') })
    .optional()
    .describe('virtio-vsock device'),
  consoleBytes: consoleBytes.optional().describe('console output that is kept, in bytes'),
  signal: abortSignal.optional(),
});

const vsockPort = z.strictObject({
  port: z
    .int()
    .min(0)
    .max(2 ** 32 - 2, 'the last port number means "any port"'),
});

export function parseMachineConfig(input: unknown): ResolvedMachineConfig {
  return parseConfig(machineConfigSchema, input, 'invalid machine configuration');
}

export function parseAttachedDrive(input: unknown): ResolvedAttachedDrive {
  return parseConfig(attachedDrive, input, 'invalid drive');
}

/** A number of CPUs to have on line, of at most `max`. */
export function parseVcpuTarget(input: unknown, max: number): number {
  const { vcpus } = parseConfig(vcpuTarget, { vcpus: input }, 'invalid number of CPUs');
  if (vcpus <= max) return vcpus;
  throw new ConfigError('ERR_INVALID_CONFIG', `the machine was made for at most ${max} vcpus`, {
    context: { vcpus, maxVcpus: max },
  });
}

export function parseStopOptions(input: unknown): ResolvedStopOptions {
  return parseConfig(stopOptions, input === undefined ? {} : input, 'invalid stop options');
}

/** The options, and the path that comes before them. */
export function parseSnapshotOptions(directory: unknown, input: unknown): ResolvedSnapshotOptions {
  return parseConfig(snapshotOptions, withDirectory(directory, input), 'invalid snapshot options');
}

export function parseRestoreOptions(directory: unknown, input: unknown): ResolvedRestoreOptions {
  return parseConfig(restoreOptions, withDirectory(directory, input), 'invalid restore overrides');
}

function withDirectory(directory: unknown, input: unknown): unknown {
  if (typeof input !== 'object' || input === null) return input;
  return { ...input, directory };
}

export function parsePort(input: unknown): number {
  return parseConfig(vsockPort, { port: input }, 'invalid vsock port').port;
}
