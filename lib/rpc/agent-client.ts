/** The guest agent's unary calls in plain types: nothing above this file sees protobuf. */

import { constants } from 'node:os';
import type { Duplex } from 'node:stream';
import { MachineError, type RpcError, SandboxError } from '../errors.js';
import { type CallOptions, TtrpcClient } from './client.js';
import { decode, encode } from './codec.js';
import { FILES_SERVICE } from './files-client.js';
import {
  BindSlotRequest,
  BindSlotResponse,
  GetInfoRequest,
  GetInfoResponse,
  GetMemoryRequest,
  GetMemoryResponse,
  type Mount,
  MountInRootRequest,
  MountInRootResponse,
  PowerOffRequest,
  ResizeRequest,
  ResizeResponse,
  RestoredRequest,
  SetOnlineCpusRequest,
  SetOnlineCpusResponse,
  SetUpRootRequest,
  SignalRequest,
  SignalResponse,
  StartContainerServiceRequest,
  StartContainerServiceResponse,
  UnbindSlotRequest,
  UnbindSlotResponse,
} from './gen/agent_pb.js';

const AGENT_SERVICE = 'embervm.agent.v1.Agent';
const PROCESS_SERVICE = 'embervm.agent.v1.Process';
const WHAT = 'an answer of the agent';

/** Where the agent dials on the host, and where it listens in the guest. */
export const AGENT_PORT = 1024;

export interface AgentInfo {
  agentVersion: string;
  kernelRelease: string;
  /** Guest time of the agent's first instruction and of its dial, in ns since boot. */
  startedNs: bigint;
  dialledNs: bigint;
}

/** sysinfo(2), as the guest's kernel tells it. */
export interface GuestMemory {
  totalBytes: number;
  freeBytes: number;
  sharedBytes: number;
  bufferBytes: number;
}

export interface GuestMount {
  source: string;
  fstype: string;
  data?: string;
  readOnly?: boolean;
}

export interface RootSetUp {
  lower: GuestMount;
  /** Absent: writes go to memory. */
  upper?: GuestMount;
  growUpper?: boolean;
  hostname: string;
  /** No set-user-ID programs and no device files on the root. */
  restricted: boolean;
}

/** What {@link AgentClient.mount} mounts: by a tag, the path of a device, or a size in memory. */
export type MountSource =
  /** With a path, only the file or directory below it. */
  | { share: string; path?: string }
  /** Without `fstype`: ext4 or EROFS. `grow`: the file system, to the size of its disk. */
  | { disk: string; fstype?: string | undefined; grow?: boolean | undefined }
  | { tmpfs: { sizeBytes?: number | undefined; mode?: number | undefined } };

export interface MountInRoot {
  /** Inside the root, absolute. What is missing of it is made. */
  target: string;
  source: MountSource;
  readOnly: boolean;
  noExec: boolean;
  noSuid: boolean;
  noDev: boolean;
}

/** What makes a machine that goes on from a snapshot differ from others that do. */
export interface Renewal {
  /** 32 to 512 bytes of the host's randomness, for this machine alone. */
  randomSeed: Uint8Array;
  /** The time of day in ns. */
  realtimeNs: bigint;
  /** Absent: as it is. */
  hostname?: string | undefined;
}

/** Unary calls on the control channel. */
export class AgentClient {
  readonly #client: TtrpcClient;

  constructor(stream: Duplex) {
    this.#client = new TtrpcClient(stream);
  }

  /** Settles when the control channel is gone. */
  get closed(): Promise<RpcError> {
    return this.#client.closed;
  }

  async getInfo(options?: CallOptions): Promise<AgentInfo> {
    const request = encode(GetInfoRequest, {});
    const { agentVersion, kernelRelease, startedNs, dialledNs } = decode(
      GetInfoResponse,
      await this.#client.call(AGENT_SERVICE, 'GetInfo', request, options),
      WHAT,
    );
    return { agentVersion, kernelRelease, startedNs, dialledNs };
  }

  async setUpRoot(setUp: RootSetUp, options?: CallOptions): Promise<void> {
    const { lower, upper, growUpper = false, hostname, restricted } = setUp;
    const value = { lower: toMount(lower), upper: upper && toMount(upper), growUpper };
    const root = { $case: 'overlay', value } as const;
    const request = encode(SetUpRootRequest, { root, hostname, restricted });
    await this.#client.call(AGENT_SERVICE, 'SetUpRoot', request, options);
  }

  async getMemory(options?: CallOptions): Promise<GuestMemory> {
    const request = encode(GetMemoryRequest, {});
    const response = await this.#client.call(AGENT_SERVICE, 'GetMemory', request, options);
    const memory = decode(GetMemoryResponse, response, WHAT);
    return {
      totalBytes: Number(memory.totalBytes),
      freeBytes: Number(memory.freeBytes),
      sharedBytes: Number(memory.sharedBytes),
      bufferBytes: Number(memory.bufferBytes),
    };
  }

  /** After a restore: to be called before anything is started in the guest. */
  async restored(renewal: Renewal, options?: CallOptions): Promise<void> {
    const { randomSeed, realtimeNs, hostname = '' } = renewal;
    const request = encode(RestoredRequest, { randomSeed, realtimeNs, hostname });
    await this.#client.call(AGENT_SERVICE, 'Restored', request, options);
  }

  /**
   * Binds the guest's driver to a device that `Machine.attachDrive` put into a slot.
   * Resolves to the path of a disk (`/dev/vdc`), else to the empty string.
   */
  async bindSlot(slot: number, options?: CallOptions): Promise<string> {
    const request = encode(BindSlotRequest, { slot });
    const bytes = await this.#client.call(AGENT_SERVICE, 'BindSlot', request, options);
    const response = decode(BindSlotResponse, bytes, WHAT);
    requireHotplugged(response, 'ERR_GUEST_HOTPLUG', { slot });
    return response.blockDevice;
  }

  /** Takes the driver off again, so that `Machine.detach` may; ERR_DEVICE_IN_USE while mounted. */
  async unbindSlot(slot: number, options?: CallOptions): Promise<void> {
    const request = encode(UnbindSlotRequest, { slot });
    const bytes = await this.#client.call(AGENT_SERVICE, 'UnbindSlot', request, options);
    requireHotplugged(decode(UnbindSlotResponse, bytes, WHAT), 'ERR_DEVICE_IN_USE', { slot });
  }

  /** Mounts inside the root; `errno` of ERR_MOUNT_FAILED says why not. */
  async mount({ source, ...rest }: MountInRoot, options?: CallOptions): Promise<void> {
    const request = encode(MountInRootRequest, { ...rest, source: toSource(source) });
    const bytes = await this.#client.call(AGENT_SERVICE, 'MountInRoot', request, options);
    const { errno: number, message } = decode(MountInRootResponse, bytes, WHAT);
    if (number === 0) return;
    const { target } = rest;
    throw new SandboxError(
      'ERR_MOUNT_FAILED',
      `nothing was mounted at ${target}: the guest answered ${message}`,
      { errno: nameOf(number), context: { target } },
    );
  }

  /** Brings CPUs on line or off until the first `count` are on. */
  async setOnlineCpus(count: number, options?: CallOptions): Promise<void> {
    const request = encode(SetOnlineCpusRequest, { count });
    const bytes = await this.#client.call(AGENT_SERVICE, 'SetOnlineCpus', request, options);
    requireHotplugged(decode(SetOnlineCpusResponse, bytes, WHAT), 'ERR_GUEST_HOTPLUG', { count });
  }

  /** The program that runs containers dials the host's `port` then; idempotent while it runs. */
  async startContainerService(port: number, options?: CallOptions): Promise<void> {
    const request = encode(StartContainerServiceRequest, { port });
    const bytes = await this.#client.call(AGENT_SERVICE, 'StartContainerService', request, options);
    const response = decode(StartContainerServiceResponse, bytes, WHAT);
    requireHotplugged(response, 'ERR_GUEST_HOTPLUG', { port });
  }

  /** Ends every process within the grace, syncs and powers off. Answered before the end. */
  async powerOff(graceMs: number, options?: CallOptions): Promise<void> {
    const request = encode(PowerOffRequest, { graceMs });
    await this.#client.call(AGENT_SERVICE, 'PowerOff', request, options);
  }

  /** False when the process had already ended. */
  async signal(
    execId: bigint,
    signal: number,
    group: boolean,
    options?: CallOptions,
  ): Promise<boolean> {
    const request = encode(SignalRequest, { execId, signal, group });
    const response = await this.#client.call(PROCESS_SERVICE, 'Signal', request, options);
    return decode(SignalResponse, response, WHAT).delivered;
  }

  /** False when the process had already ended, or has no terminal. */
  async resize(
    execId: bigint,
    size: { rows: number; cols: number },
    options?: CallOptions,
  ): Promise<boolean> {
    const request = encode(ResizeRequest, { execId, ...size });
    const response = await this.#client.call(PROCESS_SERVICE, 'Resize', request, options);
    return decode(ResizeResponse, response, WHAT).resized;
  }

  /** One of the quick file operations, whose messages `files-client.ts` knows. */
  files(method: string, request: Uint8Array, options?: CallOptions): Promise<Uint8Array> {
    return this.#client.call(FILES_SERVICE, method, request, options);
  }

  close(): void {
    this.#client.close();
  }
}

/** `whenBusy`: what EBUSY means. */
function requireHotplugged(
  response: { errno: number; message: string },
  whenBusy: 'ERR_DEVICE_IN_USE' | 'ERR_GUEST_HOTPLUG',
  context: Record<string, number>,
): void {
  if (response.errno === 0) return;
  const errno = nameOf(response.errno);
  const code = errno === 'EBUSY' ? whenBusy : 'ERR_GUEST_HOTPLUG';
  throw new MachineError(code, `the guest could not: ${response.message}`, { errno, context });
}

function nameOf(errno: number): string | undefined {
  return Object.entries(constants.errno).find(([, number]) => number === errno)?.[0];
}

function toSource(source: MountSource): NonNullable<MountInRootRequest['source']> {
  if ('share' in source) {
    return { $case: 'share', value: { tag: source.share, path: source.path ?? '' } };
  }
  if ('disk' in source) {
    const { disk: device, fstype = '', grow = false } = source;
    return { $case: 'disk', value: { device, fstype, grow } };
  }
  const { sizeBytes = 0, mode = 0 } = source.tmpfs;
  return { $case: 'tmpfs', value: { sizeBytes: BigInt(sizeBytes), mode } };
}

function toMount({ source, fstype, data = '', readOnly = false }: GuestMount): Mount {
  return { source, fstype, data, readOnly };
}
