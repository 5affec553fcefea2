/** What a machine tells about itself. */
import type { MachineError } from '../errors.js';
import type {
  NativeBalloonStatistics,
  NativeExitReason,
  NativeSnapshotReport,
  NativeStats,
} from '../native/types.js';

/**
 * `created → booting → running ⇄ paused → stopping → stopped`, or `crashed`
 * from any of them. `running` says that the CPUs run, not that a program
 * in the guest is ready.
 */
export type MachineState =
  | 'created'
  | 'booting'
  | 'running'
  | 'paused'
  | 'stopping'
  | 'stopped'
  | 'crashed';

/** Why a machine ended. `fault`: the monitor or KVM could not go on. */
export type MachineExitReason = NativeExitReason;

export interface MachineExit {
  reason: MachineExitReason;
  message: string;
  context: Readonly<Record<string, string | number>>;
}

export type MachineStats = NativeStats;
export type BalloonStatistics = NativeBalloonStatistics;
export type SnapshotReport = NativeSnapshotReport;

export interface MachineEvents {
  /** The CPUs run. */
  ready: [];
  /** The machine has ended, however. The last event but `crash`. */
  exit: [exit: MachineExit];
  /** The guest panicked or could not go on; after `exit`. */
  crash: [error: MachineError];
  /** The guest printed more than is kept. Once. */
  'console-overflow': [droppedBytes: number];
  /** A device was stopped because its driver broke the protocol. The machine goes on. */
  'device-error': [device: string, message: string];
}

/** A device in one of the machine's hotplug slots. */
export interface DeviceHandle {
  readonly id: string;
  /**
   * The guest's number of the slot: its kernel knows it as the platform device
   * `virtio-mmio.<slot>`, to which a driver is bound.
   */
  readonly slot: number;
  /** Where the slot's registers are in the guest's memory. */
  readonly address: number;
}

/** Brings the guest's CPUs on line or off until so many are on. */
export type ResizeVcpusRequest = (vcpus: number) => Promise<void>;

/** Asks the guest to power off within `graceMs`; resolves when it has agreed. */
export type PowerOffRequest = (graceMs: number) => Promise<void>;

/** A port that the host listens on. */
export interface VsockListener extends AsyncDisposable {
  readonly port: number;
  /** Stops listening. Connections that were accepted stay. Idempotent. */
  close(): Promise<void>;
}
