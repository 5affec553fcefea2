/** `embervm/machine`: the virtual machine monitor by itself. */
export type { DiskFormat } from '../config/disk-format.js';
export type {
  AttachedDriveConfig,
  DriveConfig,
  KernelConfig,
  MachineConfig,
  ResizeMemoryOptions,
  RestoreOverrides,
  SnapshotOptions,
  StopOptions,
} from '../config/machine.js';
export type { SharedDirCache, SharedDirConfig } from '../config/shared-dirs.js';
export {
  ConfigError,
  EmbervmError,
  type ErrorCode,
  HostError,
  MachineError,
} from '../errors.js';
export { type HostReport, probeHost } from '../native/host.js';
export { Machine } from './machine.js';
export type {
  BalloonStatistics,
  DeviceHandle,
  MachineEvents,
  MachineExit,
  MachineExitReason,
  MachineState,
  MachineStats,
  PowerOffRequest,
  ResizeVcpusRequest,
  SnapshotReport,
  VsockListener,
} from './types.js';
