/** `embervm`: hardware-isolated Linux sandboxes inside a Node process. */
export type { AttachOptions } from './config/attach.js';
export type { ExecOptions, StdinSource, TerminalSize } from './config/exec.js';
export type {
  CopyInOptions,
  CopyOutOptions,
  FileOptions,
  MakeDirectoryOptions,
  OwnerOptions,
  ReadFileOptions,
  ReadStreamOptions,
  RecursiveOptions,
  WriteFileOptions,
  WriteStreamOptions,
} from './config/files.js';
export type {
  ImageOption,
  ImageProgressEvent,
  LoadOptions,
  PruneOptions,
  PullOptions,
  PullPolicy,
  SaveImageOptions,
} from './config/image.js';
export type { LogLevel, LogOptions, LogSource, LogStreamOptions } from './config/logs.js';
export type { StopOptions } from './config/machine.js';
export type { MetricsOptions, MetricsStreamOptions } from './config/metrics.js';
export type { BindMount, DiskMount, Mount, TmpfsMount, VolumeMount } from './config/mounts.js';
export type { Patch } from './config/patches.js';
export type {
  RegistryCredentials,
  RegistryHostOptions,
  RegistryOptions,
} from './config/registry.js';
export type { ResizeOptions } from './config/resize.js';
export type { Rlimit, RlimitName } from './config/rlimits.js';
export type {
  BootStage,
  ListOptions,
  ProgressEvent,
  SandboxOptions,
  StageEvent,
  StartOptions,
  VmConfig,
} from './config/sandbox.js';
export type {
  ExportOptions,
  ForkOptions,
  ImportOptions,
  SaveOptions,
  SnapshotListOptions,
} from './config/snapshot.js';
export type { VolumeListOptions, VolumeOptions } from './config/volume.js';
export {
  ConfigError,
  EmbervmError,
  type ErrorCode,
  type ErrorContext,
  ExecError,
  type ExecFailureKind,
  FileError,
  HostError,
  ImageError,
  MachineError,
  RpcError,
  SandboxError,
  VolumeError,
} from './errors.js';
export { Image, type ImageLayerInfo } from './image/image.js';
export { type ProgressStream, showProgress } from './image/progress-display.js';
export type { ImageConfig } from './image/store/image-config.js';
export type { Removed } from './image/store/removal.js';
export type { VsockListener } from './machine/types.js';
export { type HostReport, isInstalled, probeHost, runtimeVersion } from './native/host.js';
export { sdkVersion } from './native/version.js';
export type { SandboxFiles } from './sandbox/files.js';
export type {
  CopyResult,
  FileChange,
  FileChangeType,
  FileEntry,
  FileKind,
  FileSource,
  FileStat,
  FileWatcher,
} from './sandbox/files-types.js';
export type { SandboxHandle } from './sandbox/handle.js';
export { Sandbox } from './sandbox/sandbox.js';
export { Snapshot } from './sandbox/snapshot.js';
export type {
  BootReport,
  ExecEvent,
  ExecResult,
  Execution,
  GuestMemory,
  Metrics,
  ResizeResult,
  SandboxImage,
  SandboxStatus,
  StopReason,
  StopResult,
} from './sandbox/types.js';
export type { VmCache, VmCacheOptions, VmCacheStatus } from './sandbox/vm/vm-cache.js';
export type { Vm, VmFactory, VmFacts } from './sandbox/vm/vm-factory.js';
export type { VmRequest } from './sandbox/vm/vm-request.js';
export { createFromCache, createFromTemplate, createNew } from './sandbox/vm-factories.js';
export type { LogEntry } from './state/logs/entry.js';
export { type StorageName, setStorage } from './state/storage/choice.js';
export type { JsonValue, Storage } from './state/storage/storage.js';
export type { VolumeFileEntry, VolumeFileStat, VolumeFiles } from './volume/files.js';
export { Volume } from './volume/volume.js';
