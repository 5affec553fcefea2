/** Configuration of a `Machine`. */

import { ConfigError } from '../errors.js';
import { abortSignal, hostPath, nonEmptyText, notBuilt, onlyBuilt, timeoutMs } from './common.js';
import { type DiskFormat, diskFormat } from './disk-format.js';
import { growableMemory, memoryMib, vcpuCount } from './host-limits.js';
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

/** A disk image as a virtio block device. */
export interface DriveConfig {
  /** What the guest reads as the serial number; `drive<n>` when absent. */
  id?: string | undefined;
  /** A regular file or block device; a raw one has a size that is a multiple of 512 bytes. */
  path: string;
  /**
   * How the file holds the disk; default `raw`. A qcow2 image must have no
   * backing file; a VMDK is flat, and its files are beside the descriptor.
   */
  format?: DiskFormat | undefined;
  /** Refuse writes; default false. */
  readOnly?: boolean | undefined;
  /**
   * `writeback` (default): a write may stay in the host's memory until the guest flushes.
   * `writethrough`: it is on the host's disk when the guest is told so. `direct`: as `writeback`,
   * but past the host's page cache (O_DIRECT), which not every file system can.
   */
  cache?: DriveCache | undefined;
  rateLimit?: DriveRateLimit | undefined;
}

/** Where what a drive holds may be kept besides its file. */
export type DriveCache = 'writeback' | 'writethrough' | 'direct';

/** How much a guest may do with a drive. Requests beyond it wait; none is refused. */
export interface DriveRateLimit {
  /** Of what is read and written together. */
  bytesPerSecond?: number | undefined;
  /** What may go at once after a rest; default: what a second allows. */
  burstBytes?: number | undefined;
  /** Requests of any kind. */
  opsPerSecond?: number | undefined;
  burstOps?: number | undefined;
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
  /** Guest memory in MiB, with which it boots. */
  memoryMib: number;
  /**
   * What {@link Machine.resizeMemory} may bring it to, in MiB; default `memoryMib`, from which it
   * differs by a multiple of 4. Only what the guest uses is taken from the host.
   */
  maxMemoryMib?: number | undefined;
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
  /**
   * Give the guest a balloon: what it frees goes back to the host, and {@link Machine.setBalloon}
   * takes more; default false.
   */
  balloon?: boolean | undefined;
}

export interface ResolvedMachineConfig {
  kernel: { path: string; args: string[]; initrd?: string | undefined };
  vcpus: number;
  maxVcpus?: number | undefined;
  memoryMib: number;
  maxMemoryMib?: number | undefined;
  drives: (Omit<ResolvedAttachedDrive, 'id'> & { id?: string | undefined })[];
  sharedDirs: ResolvedSharedDir[];
  hotplugSlots: number;
  vsock?: { cid: number } | undefined;
  console: 'none' | 'capture';
  consoleBytes: number;
  rng: boolean;
  balloon: boolean;
}

/** A drive that comes while the machine runs: its id names it from then on. */
export interface AttachedDriveConfig extends DriveConfig {
  id: string;
}

export interface ResolvedAttachedDrive {
  id: string;
  path: string;
  format: DiskFormat;
  readOnly: boolean;
  cache: DriveCache;
  rateLimit?: DriveRateLimit | undefined;
}

export interface ResizeMemoryOptions {
  /**
   * How long the guest may neither take nor return anything before that is the answer, in ms;
   * default 60 000.
   */
  patienceMs?: number | undefined;
  /** Ends the waiting. The guest goes on to where it was told. */
  signal?: AbortSignal | undefined;
}

export interface ResolvedResizeMemory {
  mib: number;
  patienceMs: number;
  signal?: AbortSignal | undefined;
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
export const kernelArgument: z.ZodMiniType<string> = nonEmptyText.check(
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is refused.
  z.refine((word) => !/[\x00-\x1f\x7f]/.test(word), 'must not contain control characters'),
);

const driveId = nonEmptyText.check(
  z.refine(
    (id) => new TextEncoder().encode(id).length <= MAX_DRIVE_ID,
    `has at most ${MAX_DRIVE_ID} bytes`,
  ),
);

const guestCid = z
  .int()
  .check(
    z.gte(3, 'the smaller context ids are reserved'),
    z.lte(2 ** 32 - 2, 'the larger context ids are reserved'),
  );

const consoleBytes = z.int().check(z.gte(4096), z.lte(MAX_CONSOLE_BYTES));

const rate = z.optional(z.int().check(z.gte(1)));

const driveRateLimit: z.ZodMiniType<DriveRateLimit> = z
  .strictObject({
    bytesPerSecond: rate.check(z.describe('bytes that are read and written in a second')),
    burstBytes: rate.check(z.describe('bytes at once after a rest')),
    opsPerSecond: rate.check(z.describe('requests in a second')),
    burstOps: rate.check(z.describe('requests at once after a rest')),
  })
  .check(
    z.refine((limit) => limit.burstBytes === undefined || limit.bytesPerSecond !== undefined, {
      path: ['burstBytes'],
      message: 'needs bytesPerSecond',
    }),
    z.refine((limit) => limit.burstOps === undefined || limit.opsPerSecond !== undefined, {
      path: ['burstOps'],
      message: 'needs opsPerSecond',
    }),
  );

const drive = z.strictObject({
  id: z.optional(driveId).check(z.describe('serial number that the guest reads')),
  path: hostPath.check(z.describe('disk image')),
  format: z._default(diskFormat, 'raw').check(z.describe('format of the disk image')),
  readOnly: z._default(z.boolean(), false).check(z.describe('refuse writes')),
  cache: z
    ._default(z.enum(['writeback', 'writethrough', 'direct']), 'writeback')
    .check(z.describe('how the host keeps what is written and read')),
  rateLimit: z.optional(driveRateLimit).check(z.describe('how much the guest may do with it')),
});

const machineConfig = z.strictObject({
  kernel: z
    .strictObject({
      path: hostPath.check(z.describe('ELF vmlinux or bzImage')),
      args: z
        ._default(z.array(kernelArgument), [])
        .check(z.describe('words of the kernel command line')),
      initrd: z.optional(hostPath).check(z.describe('initramfs')),
    })
    .check(z.describe('what to boot')),
  vcpus: vcpuCount.check(z.describe('virtual CPUs')),
  maxVcpus: z.optional(vcpuCount).check(z.describe('virtual CPUs that can be on line')),
  memoryMib: memoryMib.check(z.describe('guest memory in MiB')),
  maxMemoryMib: z.optional(memoryMib).check(z.describe('guest memory that can be had, in MiB')),
  drives: z
    ._default(
      z.array(drive).check(z.maxLength(MAX_DRIVES, 'the guest has no more drive letters')),
      [],
    )
    .check(z.describe('disks, in the order of /dev/vda, /dev/vdb, …')),
  vsock: z
    .optional(
      z.strictObject({
        cid: z._default(guestCid, 3).check(z.describe("the guest's context id")),
        socketPath: notBuilt('vsock.socketPath'),
      }),
    )
    .check(z.describe('virtio-vsock device')),
  console: z
    .pipe(
      onlyBuilt('console', ['none', 'capture']),
      z.transform((value) => value ?? 'capture'),
    )
    .check(z.describe('what becomes of console output')),
  consoleBytes: z
    ._default(consoleBytes, DEFAULT_CONSOLE_BYTES)
    .check(z.describe('console output that is kept, in bytes')),
  rng: z._default(z.boolean(), true).check(z.describe('virtio-rng device')),
  memory: notBuilt('memory'),
  sharedDirs: z._default(sharedDirs, []).check(z.describe('directories of the host for the guest')),
  nics: notBuilt('nics'),
  balloon: z._default(z.boolean(), false).check(z.describe('virtio-balloon device')),
  hotplugSlots: z
    ._default(z.int().check(z.gte(0), z.lte(MAX_HOTPLUG_SLOTS)), 0)
    .check(z.describe('empty slots for devices that are attached later')),
});

export const machineConfigSchema: z.ZodMiniType<ResolvedMachineConfig> = machineConfig.check(
  z.refine(({ vcpus, maxVcpus = vcpus }) => maxVcpus >= vcpus, {
    path: ['maxVcpus'],
    message: 'must not be less than vcpus',
  }),
  growableMemory,
);

const attachedDrive: z.ZodMiniType<ResolvedAttachedDrive> = z.extend(drive, { id: driveId });

const driveFile = z.strictObject({ path: hostPath });

const driveName = z.strictObject({ id: driveId });

const vcpuTarget = z.strictObject({
  vcpus: vcpuCount.check(z.describe('virtual CPUs on line')),
});

const balloonTarget = z.strictObject({
  mib: z.int().check(z.gte(0), z.describe('memory for the balloon, in MiB')),
});

const resizeMemory: z.ZodMiniType<ResolvedResizeMemory> = z.strictObject({
  mib: z.int().check(z.gte(0), z.describe('memory that the guest should have, in MiB')),
  patienceMs: z._default(timeoutMs, 60_000).check(z.describe('time without progress, in ms')),
  signal: z.optional(abortSignal),
});

const stopOptions: z.ZodMiniType<ResolvedStopOptions> = z.strictObject({
  timeoutMs: z._default(timeoutMs, 10_000).check(z.describe('time for a graceful end, in ms')),
  signal: z.optional(abortSignal),
});

const snapshotOptions: z.ZodMiniType<ResolvedSnapshotOptions> = z.strictObject({
  directory: hostPath.check(z.describe('where the snapshot goes')),
  kind: z
    ._default(z.enum(['full', 'diff']), 'full')
    .check(z.describe('all of memory, or what changed')),
});

const restoreOptions: z.ZodMiniType<ResolvedRestoreOptions> = z.strictObject({
  directory: hostPath.check(z.describe('where the snapshot is')),
  drives: z
    ._default(
      z.array(z.strictObject({ id: driveId, path: hostPath, readOnly: z.optional(z.boolean()) })),
      [],
    )
    .check(z.describe('other files for drives')),
  onlyTheseDrives: z._default(z.boolean(), false).check(z.describe('refuse other drives')),
  vsock: z
    .optional(
      z.strictObject({ cid: z.optional(guestCid), socketPath: notBuilt('vsock.socketPath') }),
    )
    .check(z.describe('virtio-vsock device')),
  consoleBytes: z.optional(consoleBytes).check(z.describe('console output that is kept, in bytes')),
  signal: z.optional(abortSignal),
});

const vsockPort = z.strictObject({
  port: z.int().check(z.gte(0), z.lte(2 ** 32 - 2, 'the last port number means "any port"')),
});

export function parseMachineConfig(input: unknown): ResolvedMachineConfig {
  return parseConfig(machineConfigSchema, input, 'invalid machine configuration');
}

export function parseAttachedDrive(input: unknown): ResolvedAttachedDrive {
  return parseConfig(attachedDrive, input, 'invalid drive');
}

export function parseDriveFile(input: unknown): { path: string } {
  return parseConfig(driveFile, input, 'invalid file for a drive');
}

export function parseDriveId(id: unknown): string {
  return parseConfig(driveName, { id }, 'invalid drive').id;
}

export { parseSharedDir } from './shared-dirs.js';

/** A number of CPUs to have on line, of at most `max`. */
export function parseVcpuTarget(input: unknown, max: number): number {
  const { vcpus } = parseConfig(vcpuTarget, { vcpus: input }, 'invalid number of CPUs');
  if (vcpus <= max) return vcpus;
  throw new ConfigError('ERR_INVALID_CONFIG', `the machine was made for at most ${max} vcpus`, {
    context: { vcpus, maxVcpus: max },
  });
}

/** How much a balloon should have, in MiB. */
export function parseBalloonTarget(input: unknown): number {
  return parseConfig(balloonTarget, { mib: input }, 'invalid size of the balloon').mib;
}

/** How much memory a guest should have, and the options that come after it. */
export function parseResizeMemory(mib: unknown, input: unknown): ResolvedResizeMemory {
  return parseConfig(resizeMemory, withField(input, { mib }), 'invalid size of memory');
}

export function parseStopOptions(input: unknown): ResolvedStopOptions {
  return parseConfig(stopOptions, input === undefined ? {} : input, 'invalid stop options');
}

/** The options, and the path that comes before them. */
export function parseSnapshotOptions(directory: unknown, input: unknown): ResolvedSnapshotOptions {
  return parseConfig(snapshotOptions, withField(input, { directory }), 'invalid snapshot options');
}

export function parseRestoreOptions(directory: unknown, input: unknown): ResolvedRestoreOptions {
  return parseConfig(restoreOptions, withField(input, { directory }), 'invalid restore overrides');
}

function withField(input: unknown, field: object): unknown {
  if (typeof input !== 'object' || input === null) return input;
  return { ...input, ...field };
}

export function parsePort(input: unknown): number {
  return parseConfig(vsockPort, { port: input }, 'invalid vsock port').port;
}
