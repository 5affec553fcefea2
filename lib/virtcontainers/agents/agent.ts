/** What a sandbox needs of the program in the guest that runs its containers. */
import type {
  ResolvedCmd,
  ResolvedContainerConfig,
} from '../../config/virtcontainers/container.js';
import type { NetworkInterface, Route } from '../../config/virtcontainers/network.js';
import type { AgentType } from '../../config/virtcontainers/parts.js';
import type { ProcessList, ProcessListOptions, ProcessStreams } from '../types.js';

export interface GuestSandbox {
  id: string;
  hostname: string;
}

/** Processes are named by the container's id and a token; the first has the token of its container. */
export interface Agent {
  readonly type: AgentType;
  /** Before any other call, each time the VM has started. */
  createSandbox(sandbox: GuestSandbox): Promise<void>;
  destroySandbox(): Promise<void>;
  createContainer(config: ResolvedContainerConfig): Promise<void>;
  startContainer(id: string): Promise<void>;
  /** Kills what runs in it and forgets it. */
  removeContainer(id: string): Promise<void>;
  execProcess(containerId: string, token: string, cmd: ResolvedCmd): Promise<void>;
  /** `all`: every process of the container. */
  signalProcess(containerId: string, token: string, signal: number, all: boolean): Promise<void>;
  /** Resolves with the exit code. */
  waitProcess(containerId: string, token: string, signal?: AbortSignal): Promise<number>;
  winsizeProcess(containerId: string, token: string, height: number, width: number): Promise<void>;
  ioStream(containerId: string, token: string): ProcessStreams;
  listProcesses(containerId: string, options: ProcessListOptions): Promise<ProcessList>;
  updateInterface(networkInterface: NetworkInterface): Promise<void>;
  removeInterface(networkInterface: NetworkInterface): Promise<void>;
  /** `undefined`: the guest does not know better than the sandbox's record. */
  listInterfaces(): Promise<NetworkInterface[] | undefined>;
  /** All that the guest is to have; resolves with what it has. */
  updateRoutes(routes: Route[]): Promise<Route[]>;
  listRoutes(): Promise<Route[] | undefined>;
  /** Rejects when the agent does not answer. */
  check(): Promise<void>;
  /** Lets the connection go; the guest stays as it is. */
  close(): void;
}
