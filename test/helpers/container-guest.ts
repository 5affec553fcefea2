/** A guest with the service that runs containers, and what tests ask of it. */
import type { Socket } from 'node:net';
import { join } from 'node:path';
import type { Machine } from '../../lib/machine/index.js';
import type { Codec } from '../../lib/rpc/codec.js';
import { CONTAINER_PORT, ContainerClient, message } from '../../lib/rpc/container-client.js';
import {
  CreateContainerRequest,
  CreateSandboxRequest,
  Empty,
  ReadStreamRequest,
  ReadStreamResponse,
  RemoveContainerRequest,
  StartContainerRequest,
  WaitProcessRequest,
  WaitProcessResponse,
} from '../../lib/rpc/gen/kata_agent_pb.js';
import * as oci from '../../lib/rpc/gen/kata_oci_pb.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import { type AgentGuest, bootAgentGuest, shell } from './agent-guest.js';

const MEMORY_MIB = 256;
const UPPER_MIB = 64;
const NAMESPACES = ['pid', 'ipc', 'uts', 'mount', 'network', 'cgroup'];

/** How long a call to the guest may take. */
export const CALL_TIMEOUT_MS = 60_000;

export function processOf(args: string[], more: Partial<oci.Process> = {}): oci.Process {
  return message(oci.Process, { Args: args, Cwd: '/', Env: ['PATH=/bin'], ...more });
}

const mount = (destination: string, type: string, options: string[] = []): oci.Mount =>
  message(oci.Mount, { destination, source: type, type, options });

/** A container with all namespaces, whose root has busybox. */
export function specOf(process: oci.Process, linux: Partial<oci.Linux> = {}): oci.Spec {
  return message(oci.Spec, {
    Version: '1.0.2',
    Process: process,
    Root: message(oci.Root, { Path: '/root/box' }),
    Hostname: 'box',
    Mounts: [
      mount('/proc', 'proc', ['nosuid', 'noexec', 'nodev']),
      mount('/dev', 'tmpfs', ['nosuid', 'mode=755']),
      mount('/sys/fs/cgroup', 'cgroup', ['ro', 'nosuid', 'noexec', 'nodev']),
    ],
    Linux: message(oci.Linux, {
      Namespaces: NAMESPACES.map((Type) => message(oci.LinuxNamespace, { Type })),
      ...linux,
    }),
  });
}

function dialled(machine: Machine): Promise<ContainerClient> {
  return new Promise((resolve) => {
    const listener = machine.listenVsock(CONTAINER_PORT, (stream: Socket) => {
      listener.close().catch(() => {});
      resolve(new ContainerClient(stream));
    });
  });
}

export class ContainerGuest {
  readonly guest: AgentGuest;
  readonly client: ContainerClient;

  private constructor(guest: AgentGuest, client: ContainerClient) {
    this.guest = guest;
    this.client = client;
  }

  /** Boots it, without a sandbox; its disk is in `directory`. */
  static async boot(directory: string, vcpus = 1): Promise<ContainerGuest> {
    const upper = join(directory, 'upper.ext4');
    await createUpperDisk(upper, UPPER_MIB);
    const guest = await bootAgentGuest(upper, MEMORY_MIB, { vcpus });
    await shell(
      guest,
      'mkdir -p /box/bin && cp /bin/busybox /box/bin/ && cp /bin/busybox /box/bin/sh',
    );
    const connection = dialled(guest.machine);
    await guest.agent.startContainerService(CONTAINER_PORT);
    return new ContainerGuest(guest, await connection);
  }

  close(): Promise<void> {
    return this.guest.machine.close();
  }

  call<Request extends object, Response>(
    method: string,
    request: readonly [Codec<Request>, Partial<Request>],
    response: Codec<Response>,
  ): Promise<Response> {
    return this.client.call(method, request, response, { timeoutMs: CALL_TIMEOUT_MS });
  }

  empty<Request extends object>(
    method: string,
    codec: Codec<Request>,
    fields: Partial<Request>,
  ): Promise<Empty> {
    return this.call(method, [codec, fields], Empty);
  }

  createSandbox(): Promise<Empty> {
    return this.empty('CreateSandbox', CreateSandboxRequest, { sandboxId: 'one' });
  }

  create(id: string, spec: oci.Spec): Promise<Empty> {
    return this.empty('CreateContainer', CreateContainerRequest, { containerId: id, OCI: spec });
  }

  start(id: string): Promise<Empty> {
    return this.empty('StartContainer', StartContainerRequest, { containerId: id });
  }

  remove(id: string): Promise<Empty> {
    return this.empty('RemoveContainer', RemoveContainerRequest, { containerId: id });
  }

  async wait(containerId: string, execId = ''): Promise<number> {
    const fields = { containerId, execId };
    const answer = await this.client.call(
      'WaitProcess',
      [WaitProcessRequest, fields],
      WaitProcessResponse,
    );
    return answer.status;
  }

  /** Some of what it has written, as soon as there is any; empty at the end. */
  async read(containerId: string, method = 'ReadStdout', execId = ''): Promise<string> {
    const fields = { containerId, execId, len: 4096 };
    const request = [ReadStreamRequest, fields] as const;
    const { data } = await this.client.call(method, request, ReadStreamResponse);
    return Buffer.from(data).toString();
  }

  async output(containerId: string, method = 'ReadStdout', execId = ''): Promise<string> {
    let text = '';
    for (;;) {
      const more = await this.read(containerId, method, execId);
      if (more === '') return text;
      text += more;
    }
  }

  /** From its creation to its removal. */
  async run(id: string, spec: oci.Spec): Promise<{ code: number; out: string; err: string }> {
    await this.create(id, spec);
    await this.start(id);
    const ended = [this.wait(id), this.output(id), this.output(id, 'ReadStderr')] as const;
    const [code, out, err] = await Promise.all(ended);
    await this.remove(id);
    return { code, out, err };
  }
}
