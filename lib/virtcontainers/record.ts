/** What is known of a sandbox on disk. Saved as a whole, so its parts always fit together. */
import type {
  ResolvedContainerConfig,
  ResolvedDeviceInfo,
} from '../config/virtcontainers/container.js';
import type { NetworkInterface, Route } from '../config/virtcontainers/network.js';
import type { ResolvedVcSandboxConfig } from '../config/virtcontainers/sandbox.js';
import { type State, states } from './state-table.js';

export const RECORD_VERSION = 1;

/** The first process of a container. */
export interface ProcessRecord {
  token: string;
  pid: number;
  /** ms since the epoch. */
  startTime: number;
}

export interface ContainerRecord {
  config: ResolvedContainerConfig;
  state: State;
  /** To go back to when the sandbox is resumed. */
  beforePause: State | null;
  process: ProcessRecord;
  /** Ids of the disks that it holds. */
  devices: string[];
}

/** A disk in a slot of the VM. */
export interface DeviceRecord {
  id: string;
  info: ResolvedDeviceInfo;
  /** What it is on the host. */
  hostPath: string;
  /** Where the guest has it. */
  guestPath: string;
  /** How many have added it. */
  references: number;
}

export interface SandboxRecord {
  version: typeof RECORD_VERSION;
  id: string;
  createdAt: number;
  state: State;
  /** The process that the VM is in; `null` for one that is in none. */
  owner: number | null;
  config: Omit<ResolvedVcSandboxConfig, 'id' | 'containers'>;
  /** Of the proxy, where one was started. */
  proxy: { pid: number; url: string } | null;
  containers: ContainerRecord[];
  devices: DeviceRecord[];
  interfaces: NetworkInterface[];
  routes: Route[];
}

type Fields = { readonly [key: string]: unknown };

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isState(value: unknown): value is State {
  return (states as readonly unknown[]).includes(value);
}

function isContainer(value: unknown): boolean {
  if (!isFields(value)) return false;
  const { config, state, process, devices } = value;
  return (
    isFields(config) &&
    typeof config.id === 'string' &&
    isState(state) &&
    isFields(process) &&
    typeof process.token === 'string' &&
    typeof process.pid === 'number' &&
    typeof process.startTime === 'number' &&
    Array.isArray(devices)
  );
}

/** What this package can have written. */
export function isSandboxRecord(value: unknown): value is SandboxRecord {
  if (!isFields(value)) return false;
  const { version, id, createdAt, state, owner, config, proxy } = value;
  const { containers, devices, interfaces, routes } = value;
  return (
    version === RECORD_VERSION &&
    typeof id === 'string' &&
    typeof createdAt === 'number' &&
    isState(state) &&
    (owner === null || typeof owner === 'number') &&
    isFields(config) &&
    isFields(config.hypervisorConfig) &&
    isFields(config.annotations) &&
    (proxy === null || (isFields(proxy) && typeof proxy.pid === 'number')) &&
    Array.isArray(containers) &&
    containers.every(isContainer) &&
    Array.isArray(devices) &&
    Array.isArray(interfaces) &&
    Array.isArray(routes)
  );
}
