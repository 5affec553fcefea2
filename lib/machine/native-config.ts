/** What the addon is told, from options that were checked. */
import type {
  ResolvedAttachedDrive,
  ResolvedMachineConfig,
  ResolvedRestoreOptions,
} from '../config/machine.js';
import type { ResolvedSharedDir } from '../config/shared-dirs.js';
import type {
  NativeDriveConfig,
  NativeMachineConfig,
  NativeRateLimit,
  NativeRestoreConfig,
  NativeSharedDir,
} from '../native/types.js';

const BYTES_PER_MIB = 1024 * 1024;

export function toNativeMachine(config: ResolvedMachineConfig): NativeMachineConfig {
  const { vcpus, maxVcpus = vcpus, memoryMib, maxMemoryMib = memoryMib } = config;
  // The guest starts the others when it is told to.
  const cpus = maxVcpus > vcpus ? [`maxcpus=${vcpus}`] : [];
  // What comes is used at once, and for nothing that could not be moved away again.
  const memory = maxMemoryMib > memoryMib ? ['memhp_default_state=online_movable'] : [];
  return {
    kernelPath: config.kernel.path,
    initrdPath: config.kernel.initrd,
    commandLine: [...config.kernel.args, ...cpus, ...memory].join(' '),
    vcpus: maxVcpus,
    memoryMib,
    pluggableBytes: (maxMemoryMib - memoryMib) * BYTES_PER_MIB,
    drives: config.drives.map((drive, index) =>
      toNativeDrive({ ...drive, id: drive.id ?? `drive${index}` }),
    ),
    sharedDirs: config.sharedDirs.map(toNativeDir),
    hotplugSlots: config.hotplugSlots,
    vsockCid: config.vsock?.cid,
    rng: config.rng,
    balloon: config.balloon,
    console: config.console === 'capture',
    consoleBytes: config.consoleBytes,
  };
}

export function toNativeDrive(drive: ResolvedAttachedDrive): NativeDriveConfig {
  const { id, path, format, readOnly, cache, rateLimit = {} } = drive;
  const { bytesPerSecond, burstBytes, opsPerSecond, burstOps } = rateLimit;
  return {
    id,
    path,
    format,
    readOnly,
    cache,
    bytes: limit(bytesPerSecond, burstBytes),
    operations: limit(opsPerSecond, burstOps),
  };
}

/** What a second allows may be used at once, unless something else was asked for. */
function limit(
  perSecond: number | undefined,
  burst: number | undefined = perSecond,
): NativeRateLimit | undefined {
  if (perSecond === undefined || burst === undefined) return undefined;
  return { perSecond, burst };
}

export function toNativeDir({ locks, owner, ...dir }: ResolvedSharedDir): NativeSharedDir {
  return {
    ...dir,
    hostLocks: locks === 'host',
    owner: owner === 'host' ? undefined : owner,
  };
}

export function toNativeRestore(options: ResolvedRestoreOptions): NativeRestoreConfig {
  const { directory, drives, onlyTheseDrives, vsock, consoleBytes } = options;
  return { directory, drives, onlyTheseDrives, vsockCid: vsock?.cid, consoleBytes };
}
