/**
 * The surface of the addon, typed by hand. Nothing else knows what C++ exports.
 *
 * Every failure is an `Error` with `code` (`ERR_…`), and where a system call
 * failed `errno` (a name such as `ENOENT`) and `syscall`; `context` holds the
 * facts of the failure as plain strings and numbers.
 */
export interface NativeError extends Error {
  code: string;
  errno?: string;
  syscall?: string;
  context?: Record<string, string | number>;
}

export interface NativeDriveConfig {
  /** What the guest reads by GET_ID, at most 20 bytes. */
  id: string;
  path: string;
  format: 'raw' | 'qcow2' | 'vmdk';
  readOnly: boolean;
  /** `DriveCache` of the public options. */
  cache: string;
  /** Of what is read and written together; `undefined`: no limit. */
  bytes: NativeRateLimit | undefined;
  /** Of requests. */
  operations: NativeRateLimit | undefined;
}

export interface NativeRateLimit {
  perSecond: number;
  /** What may be used at once after a rest. */
  burst: number;
}

export interface NativeSharedDir {
  /** What the guest mounts, at most 36 bytes. */
  tag: string;
  path: string;
  singleFile: boolean;
  /** 0: none. */
  quotaBytes: number;
  readOnly: boolean;
  cache: 'none' | 'auto' | 'always';
  writeback: boolean;
  crossMounts: boolean;
  hostLocks: boolean;
  maxOpenFiles: number;
  /** Whose all files are; `undefined`: ids are the host's. */
  owner: { uid: number; gid: number } | undefined;
}

/** Complete and defaulted: C++ fills nothing in. */
export interface NativeMachineConfig {
  kernelPath: string;
  /** `undefined` when the kernel needs none. */
  initrdPath: string | undefined;
  /** The caller's part; the addon appends what the host kind and the devices need. */
  commandLine: string;
  vcpus: number;
  /** In MiB. */
  memoryMib: number;
  /** What it may have beyond that, in bytes: a multiple of 4 MiB; 0: nothing. */
  pluggableBytes: number;
  drives: NativeDriveConfig[];
  sharedDirs: NativeSharedDir[];
  /** Empty slots for devices that come later. */
  hotplugSlots: number;
  /** `undefined`: no vsock device. */
  vsockCid: number | undefined;
  rng: boolean;
  balloon: boolean;
  /** `false`: the guest gets no virtio-console; the serial port still captures early output. */
  console: boolean;
  /** Capacity of the console ring in bytes; older output is dropped first. */
  consoleBytes: number;
}

/** What differs from the machine that the snapshot is of. */
export interface NativeRestoreConfig {
  directory: string;
  /** Other files for the drives of these ids; `readOnly`: refused where it was not so. */
  drives: { id: string; path: string; readOnly?: boolean | undefined }[];
  /** Refuses a snapshot with other drives than these. */
  onlyTheseDrives: boolean;
  vsockCid: number | undefined;
  consoleBytes: number | undefined;
}

/** Where the guest finds a device. */
export interface NativePluggedDevice {
  /** Of the slots on the kernel's command line, from 0. */
  slot: number;
  address: number;
  irq: number;
}

export type NativeSnapshotKind = 'full' | 'diff';

export interface NativeSnapshotReport {
  /** `full` also where a diff was asked for and there was nothing to build on. */
  kind: NativeSnapshotKind;
  /** How long the guest stood still, in ns. */
  pauseNs: number;
  /** Guest memory that was written; the rest is zero or shared. */
  memoryBytes: number;
  stateBytes: number;
}

export type NativeMachineState =
  | 'created'
  | 'running'
  | 'paused'
  | 'stopped'
  | 'crashed'
  | 'closed';

/** Why the vCPUs stopped for good. */
export type NativeExitReason = 'poweroff' | 'reset' | 'panic' | 'killed' | 'fault';

export type NativeEvent =
  /** The guest connected to `port`, on which the host listens; `fd` is ours to own. */
  | { type: 'vsock-connection'; port: number; guestPort: number; fd: number }
  /** The last event of a machine. `fault`: the VMM or KVM could not go on; `message` says why. */
  | {
      type: 'exit';
      reason: NativeExitReason;
      message: string;
      context: Record<string, string | number>;
    }
  /** A device was stopped because its driver broke the protocol. The machine goes on. */
  | { type: 'device-error'; device: string; message: string }
  /** Guest output was dropped from the console ring for the first time. */
  | { type: 'console-overflow'; droppedBytes: number };

export interface NativeVcpuStats {
  /** How often it left the guest, also where KVM served it. */
  exits: number;
  /** How often this process served a register of a device. */
  deviceExits: number;
  /** Instructions that KVM emulated, from the vCPU's statistics file; -1 where the host does not count. */
  emulatedInstructions: number;
  /** How long it was halted, in ns, until the last time that it woke; -1 as above. */
  haltedNs: number;
  /** CPU time of the vCPU thread, in ns. */
  cpuTimeNs: number;
  /** Of that, what devices took to serve their registers; emulating an instruction is not in it. */
  deviceTimeNs: number;
}

export interface NativeStats {
  /** When the vCPUs' counters were read, in ns of the monotonic clock. */
  atNs: number;
  vcpus: NativeVcpuStats[];
  /** Emulation fix-ups by mnemonic. */
  fixups: Record<string, number>;
  /** ns from the create call to the first `KVM_RUN`; -1 before the start. */
  setupNs: number;
  console: { bytes: number; droppedBytes: number };
  drives: Record<
    string,
    {
      readBytes: number;
      writtenBytes: number;
      reads: number;
      writes: number;
      flushes: number;
      errors: number;
    }
  >;
  /** By their tags. `openFiles`: descriptors that are held for the guest. */
  sharedDirs: Record<
    string,
    {
      requests: number;
      errors: number;
      readBytes: number;
      writtenBytes: number;
      openFiles: number;
    }
  >;
  /**
   * Absent: no balloon. `actualBytes`: what it has of the guest's memory, of `targetBytes` that it
   * should have. `reportedBytes`: given back so far because the guest had no use for it.
   */
  balloon?: { targetBytes: number; actualBytes: number; reportedBytes: number };
  /** Absent: it never has more than it boots with. `bytes`: what the guest has. */
  memory?: { bytes: number; targetBytes: number };
  vsock: { connections: number; txBytes: number; rxBytes: number };
  interrupts: number;
}

/** What the guest says of its memory; absent: it did not say. */
export interface NativeBalloonStatistics {
  freeBytes?: number;
  totalBytes?: number;
  /** What programs could get without swapping. */
  availableBytes?: number;
  cacheBytes?: number;
  swappedInBytes?: number;
  swappedOutBytes?: number;
  majorFaults?: number;
  minorFaults?: number;
}

export interface NativeMachine {
  readonly state: NativeMachineState;
  start(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** RIP of each vCPU of a paused machine. */
  instructionPointers(): Promise<bigint[]>;
  /** Stops the vCPUs at once; the `exit` event with reason `killed` follows. Idempotent. */
  kill(): Promise<void>;
  /** Kills, joins every thread, frees memory and descriptors. Idempotent. No event follows. */
  close(): Promise<void>;
  /** Puts a drive into a free hotplug slot; the guest binds a driver to it. */
  attachDrive(drive: NativeDriveConfig): Promise<NativePluggedDevice>;
  /** The same with a directory of the host, whose tag is its id. */
  attachSharedDir(dir: NativeSharedDir): Promise<NativePluggedDevice>;
  /** Takes the device of this id out of its slot; the guest must have unbound it. */
  detach(id: string): Promise<void>;
  /** Another file for a drive; its size in bytes. */
  swapDrive(id: string, path: string): Promise<number>;
  /** The guest is told how large the drive's file is; its size in bytes. */
  resizeDrive(id: string): Promise<number>;
  /** How much of the guest's memory the balloon should take. */
  setBalloon(bytes: number): Promise<void>;
  /**
   * How much memory the guest should have; what it has when it got there, or when it has taken and
   * returned nothing for `patienceMs`.
   */
  resizeMemory(bytes: number, patienceMs: number): Promise<number>;
  balloonStatistics(): Promise<NativeBalloonStatistics>;
  /** Of a running or paused machine, which stays what it is. */
  snapshot(request: { directory: string; kind: NativeSnapshotKind }): Promise<NativeSnapshotReport>;
  /** Connects to a port in the guest; resolves to one end of a socketpair, owned by the caller. */
  connectVsock(port: number): Promise<number>;
  listenVsock(port: number): void;
  unlistenVsock(port: number): void;
  /** The last console output, at most `maxBytes`. */
  consoleTail(maxBytes: number): Uint8Array;
  stats(): NativeStats;
  /** Bytes of guest memory that are resident on the host; counted on a thread of Node's pool. */
  residentBytes(): Promise<number>;
  /** A running machine keeps the process alive until unref'd. */
  ref(): void;
  unref(): void;
}

export interface NativeTerminalRelayConfig {
  /** Descriptors of terminals; they stay the caller's. */
  input: number;
  output: number;
  /** A raw stream of which nothing was read; it stays the caller's, who closes it. */
  stream: number;
  /** Empty: nothing detaches. */
  detachKeys: Uint8Array;
}

/** A terminal of the host and a raw stream of the guest. */
export interface NativeTerminalRelay {
  /** Zeros where the terminal does not know. */
  size(): { rows: number; cols: number };
  /**
   * Enters raw mode and moves bytes until the end; then the mode is restored and the stream closed.
   * `ended`: by the guest; `gone`: the terminal was closed. Once.
   */
  run(): Promise<'ended' | 'detached' | 'gone' | 'stopped'>;
  stop(): void;
  /** Stops what runs and waits for the mode to be restored. Idempotent. */
  close(): void;
}

export interface NativeCapability {
  name: string;
  available: boolean;
  /** Empty when available. */
  reason: string;
  cure: string;
}

export interface NativeHostReport {
  kvm: 'hardware' | 'pvm' | 'none';
  /** `KVM_GET_API_VERSION`, 0 when /dev/kvm did not open. */
  apiVersion: number;
  maxVcpus: number;
  memoryMib: number;
  cpus: number;
  capabilities: NativeCapability[];
}

/** What is left out has the addon's own bound. */
export interface NativeImageLimits {
  entries?: number | undefined;
  pathBytes?: number | undefined;
  depth?: number | undefined;
  fileBytes?: number | undefined;
  totalBytes?: number | undefined;
  metadataBytes?: number | undefined;
  imageBytes?: number | undefined;
  layers?: number | undefined;
}

export interface NativeImageRequest {
  /** Tar archives, uncompressed, the lowest layer first. */
  layers: readonly string[];
  path: string;
  limits: NativeImageLimits;
}

export interface NativeImageReport {
  imageBytes: number;
  inodes: number;
}

export interface NativeImageJob {
  done: Promise<NativeImageReport>;
  /** It then ends soon, with `ERR_ABORTED` where it was not done already. */
  cancel(): void;
}

export interface NativeBinding {
  readonly version: string;
  createMachine(
    config: NativeMachineConfig,
    onEvents: (events: NativeEvent[]) => void,
  ): Promise<NativeMachine>;
  /** The machine is paused; nothing of its memory was read yet. */
  restoreMachine(
    config: NativeRestoreConfig,
    onEvents: (events: NativeEvent[]) => void,
  ): Promise<NativeMachine>;
  createTerminalRelay(config: NativeTerminalRelayConfig): NativeTerminalRelay;
  probeHost(): NativeHostReport;
  /** Locks the open file description behind `fd`; false when another one has the file locked. */
  lockFile(fd: number): boolean;
  /** Whether another open file description has the file locked. Locks nothing. */
  isFileLocked(fd: number): boolean;
  /** Copies what is not a hole to `to`, which must not exist; synced where `durable`. */
  copySparse(from: string, to: string, durable: boolean): Promise<void>;
  /** Makes one EROFS image of tar layers. What is at `path` is replaced when it is complete. */
  buildImage(request: NativeImageRequest): NativeImageJob;
  /** Where a file of `size` bytes has data at or after `from`; `undefined`: only holes follow. */
  nextData(fd: number, from: number, size: number): { begin: number; end: number } | undefined;
}
