/** What the functions of virtcontainers answer. */
import type { Readable, Writable } from 'node:stream';
import type { ResolvedDeviceInfo } from '../config/virtcontainers/container.js';
import type {
  HypervisorType,
  ResolvedHypervisorConfig,
} from '../config/virtcontainers/hypervisor.js';
import type { AgentType } from '../config/virtcontainers/parts.js';
import type { State } from './state-table.js';

/** For every call that may wait. */
export interface CallOptions {
  /** Gives up the wait for the sandbox's lock. What has begun is brought to its end. */
  signal?: AbortSignal | undefined;
}

/** A process of a container. */
export interface Process {
  /** Unique in the sandbox: the container's id for its first process. */
  token: string;
  /** Of the shim on the host: 0 without one, -1 where the shim is built in. */
  pid: number;
  startTime: Date;
}

export interface ContainerStatus {
  id: string;
  state: State;
  pid: number;
  startTime: Date;
  rootFs: string;
  annotations: Record<string, string>;
}

export interface SandboxStatus {
  id: string;
  state: State;
  hypervisor: HypervisorType;
  /** With its defaults. */
  hypervisorConfig: ResolvedHypervisorConfig;
  agent: AgentType;
  containersStatus: ContainerStatus[];
  annotations: Record<string, string>;
}

export interface ProcessListOptions {
  /** `json`: numbers of processes; `table`: what ps(1) prints, of these processes. */
  format: 'json' | 'table';
  /** Of ps(1); default `-ef`. */
  args?: string[] | undefined;
}

/** By the `format` that was asked for. */
export type ProcessList = number[] | string;

/** The streams of a process. Each ends by itself: closing stdin leaves the others open. */
export interface ProcessStreams {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
}

/** A disk that was added to a sandbox. */
export interface Device {
  readonly id: string;
  readonly info: ResolvedDeviceInfo & { hotplugged: true; id: string };
  /** Where the guest has it. */
  readonly guestPath: string;
  /** How many have added it. */
  readonly references: number;
}

export interface StopSandboxOptions extends CallOptions {
  /** Go on where the agent or a shim fails. */
  force?: boolean | undefined;
}

export interface ResumeOptions extends CallOptions {
  /** Every container is running afterwards, as virtcontainers 1.0 has it; default false. */
  allRunning?: boolean | undefined;
}
