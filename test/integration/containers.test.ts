import { mkdtemp, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Machine } from '../../lib/machine/index.js';
import type { Codec } from '../../lib/rpc/codec.js';
import { CONTAINER_PORT, ContainerClient, message } from '../../lib/rpc/container-client.js';
import {
  CloseStdinRequest,
  CreateContainerRequest,
  CreateSandboxRequest,
  Empty,
  ExecProcessRequest,
  PauseContainerRequest,
  ReadStreamRequest,
  ReadStreamResponse,
  RemoveContainerRequest,
  SignalProcessRequest,
  StartContainerRequest,
  UpdateContainerRequest,
  WaitProcessRequest,
  WaitProcessResponse,
  WriteStreamRequest,
  WriteStreamResponse,
} from '../../lib/rpc/gen/kata_agent_pb.js';
import {
  CheckRequest,
  HealthCheckResponse,
  HealthCheckResponse_ServingStatus,
} from '../../lib/rpc/gen/kata_health_pb.js';
import * as oci from '../../lib/rpc/gen/kata_oci_pb.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import { type AgentGuest, bootAgentGuest, shell } from '../helpers/agent-guest.js';
import { BOOT_TIMEOUT_MS, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const MEMORY_MIB = 256;
const UPPER_MIB = 64;
const TIMEOUT_MS = 60_000;
const NAMESPACES = ['pid', 'ipc', 'uts', 'mount', 'network', 'cgroup'];
const KILLED = 128 + 9;

let directory = '';

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-containers-'));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

function dialled(machine: Machine): Promise<ContainerClient> {
  return new Promise((resolve) => {
    const listener = machine.listenVsock(CONTAINER_PORT, (stream: Socket) => {
      listener.close().catch(() => {});
      resolve(new ContainerClient(stream));
    });
  });
}

function processOf(args: string[], more: Partial<oci.Process> = {}): oci.Process {
  return message(oci.Process, { Args: args, Cwd: '/', Env: ['PATH=/bin'], ...more });
}

const mount = (destination: string, type: string, options: string[] = []): oci.Mount =>
  message(oci.Mount, { destination, source: type, type, options });

function specOf(process: oci.Process, linux: Partial<oci.Linux> = {}): oci.Spec {
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

describeGuest('containers in a guest', () => {
  let guest: AgentGuest;
  let client: ContainerClient;

  beforeAll(async () => {
    const upper = join(directory, 'upper.ext4');
    await createUpperDisk(upper, UPPER_MIB);
    guest = await bootAgentGuest(upper, MEMORY_MIB);
    await shell(
      guest,
      'mkdir -p /box/bin && cp /bin/busybox /box/bin/ && cp /bin/busybox /box/bin/sh',
    );
    const connection = dialled(guest.machine);
    await guest.agent.startContainerService(CONTAINER_PORT);
    client = await connection;
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await guest?.machine.close();
  });

  const empty = <Request extends object>(
    method: string,
    codec: Codec<Request>,
    fields: Partial<Request>,
  ): Promise<Empty> => client.call(method, [codec, fields], Empty, { timeoutMs: TIMEOUT_MS });

  const create = (id: string, spec: oci.Spec): Promise<Empty> =>
    empty('CreateContainer', CreateContainerRequest, { containerId: id, OCI: spec });

  async function wait(containerId: string, execId = ''): Promise<number> {
    const fields = { containerId, execId };
    const answer = await client.call(
      'WaitProcess',
      [WaitProcessRequest, fields],
      WaitProcessResponse,
    );
    return answer.status;
  }

  async function output(containerId: string, method = 'ReadStdout', execId = ''): Promise<string> {
    let text = '';
    for (;;) {
      const fields = { containerId, execId, len: 4096 };
      const { data } = await client.call(method, [ReadStreamRequest, fields], ReadStreamResponse);
      if (data.length === 0) return text;
      text += Buffer.from(data).toString();
    }
  }

  async function run(
    id: string,
    spec: oci.Spec,
  ): Promise<{ code: number; out: string; err: string }> {
    await create(id, spec);
    await empty('StartContainer', StartContainerRequest, { containerId: id });
    const [code, out, err] = await Promise.all([wait(id), output(id), output(id, 'ReadStderr')]);
    await empty('RemoveContainer', RemoveContainerRequest, { containerId: id });
    return { code, out, err };
  }

  test('need a sandbox, of which there is one', async () => {
    const { status } = await client.call('Check', [CheckRequest, {}], HealthCheckResponse);
    expect(status).toBe(HealthCheckResponse_ServingStatus.SERVING);
    const early = await rejection(create('a', specOf(processOf(['/bin/sh']))));
    expect(early).toMatchObject({ status: 9 });
    await empty('CreateSandbox', CreateSandboxRequest, { sandboxId: 'one' });
    const again = await rejection(empty('CreateSandbox', CreateSandboxRequest, {}));
    expect(again).toMatchObject({ status: 9 });
  });

  test(
    'run a program in namespaces, a root and a control group of their own',
    async () => {
      const script =
        'echo $$; busybox hostname; busybox ls /; busybox id -u; echo oops >&2; exit 7';
      const linux = {
        Resources: message(oci.LinuxResources, {
          Memory: message(oci.LinuxMemory, { Limit: 32n * 1024n * 1024n }),
          Pids: message(oci.LinuxPids, { Limit: 20n }),
        }),
      };
      const spec = specOf(processOf(['sh', '-c', `${script}`]), linux);
      const { code, out, err } = await run('first', spec);
      expect({ code, err }).toEqual({ code: 7, err: 'oops\n' });
      expect(out.split('\n')).toEqual(['1', 'box', 'bin', 'dev', 'proc', 'sys', '0', '']);
    },
    TIMEOUT_MS,
  );

  test(
    'see their limits, have no capabilities they were not given, and keep to read-only paths',
    async () => {
      const script =
        'busybox cat /sys/fs/cgroup/pids.max; busybox grep CapEff /proc/self/status;' +
        'busybox grep Seccomp: /proc/self/status; echo x 2>/dev/null >/bin/x || echo read-only;' +
        'busybox wc -c </proc/timer_list';
      const linux = {
        Resources: message(oci.LinuxResources, { Pids: message(oci.LinuxPids, { Limit: 20n }) }),
        ReadonlyPaths: ['/bin'],
        MaskedPaths: ['/proc/timer_list', '/proc/nothing'],
        Seccomp: message(oci.LinuxSeccomp, {
          DefaultAction: 'SCMP_ACT_ALLOW',
          Syscalls: [message(oci.LinuxSyscall, { Names: ['mkdir'], Action: 'SCMP_ACT_ERRNO' })],
        }),
      };
      const more = {
        NoNewPrivileges: true,
        Capabilities: message(oci.LinuxCapabilities, {
          Bounding: ['CAP_CHOWN'],
          Effective: ['CAP_CHOWN'],
          Permitted: ['CAP_CHOWN'],
        }),
      };
      const { out } = await run('second', specOf(processOf(['sh', '-c', script], more), linux));
      expect(out.split('\n')).toEqual([
        '20',
        expect.stringMatching(/^CapEff:\s0{15}1$/),
        expect.stringMatching(/^Seccomp:\s2$/),
        'read-only',
        '0',
        '',
      ]);
    },
    TIMEOUT_MS,
  );

  test(
    'take further processes and input, pause, take new limits, and end by a signal',
    async () => {
      const containerId = 'third';
      await create(containerId, specOf(processOf(['sh', '-c', 'exec busybox cat'])));
      expect(await rejection(create(containerId, specOf(processOf(['sh']))))).toMatchObject({
        status: 6,
      });
      await empty('StartContainer', StartContainerRequest, { containerId });
      const data = Buffer.from('hello\n');
      const written = await client.call(
        'WriteStdin',
        [WriteStreamRequest, { containerId, data }],
        WriteStreamResponse,
      );
      expect(written.len).toBe(data.length);
      const read = [ReadStreamRequest, { containerId, len: 100 }] as const;
      const echoed = await client.call('ReadStdout', read, ReadStreamResponse);
      expect(Buffer.from(echoed.data).toString()).toBe('hello\n');

      const Process = processOf(['busybox', 'ps', '-o', 'args']);
      const exec = { containerId, execId: 'ps', process: Process };
      await empty('ExecProcess', ExecProcessRequest, exec);
      expect(await wait(containerId, 'ps')).toBe(0);
      expect(await output(containerId, 'ReadStdout', 'ps')).toContain('busybox cat');

      await empty('PauseContainer', PauseContainerRequest, { containerId });
      const paused = await rejection(
        empty('ExecProcess', ExecProcessRequest, { ...exec, execId: 'x' }),
      );
      expect(paused).toMatchObject({ status: 9 });
      await empty('ResumeContainer', PauseContainerRequest, { containerId });
      const resources = message(oci.LinuxResources, {
        Pids: message(oci.LinuxPids, { Limit: 9n }),
      });
      await empty('UpdateContainer', UpdateContainerRequest, { containerId, resources });
      await empty('CloseStdin', CloseStdinRequest, { containerId });
      expect(await wait(containerId)).toBe(0);
      await empty('RemoveContainer', RemoveContainerRequest, { containerId });

      await create(containerId, specOf(processOf(['sh', '-c', 'busybox sleep 1000'])));
      await empty('StartContainer', StartContainerRequest, { containerId });
      await empty('SignalProcess', SignalProcessRequest, { containerId, signal: 9 });
      expect(await wait(containerId)).toBe(KILLED);
      await empty('RemoveContainer', RemoveContainerRequest, { containerId });
      expect(await rejection(wait(containerId))).toMatchObject({ status: 3 });
    },
    TIMEOUT_MS,
  );

  test(
    'are refused by the name of the field, and leave nothing behind',
    async () => {
      const label = specOf(processOf(['sh'], { SelinuxLabel: 'a:b:c' }));
      expect(await rejection(create('bad', label))).toMatchObject({ status: 12 });
      const nowhere = specOf(processOf(['sh']));
      nowhere.Mounts.push(
        message(oci.Mount, {
          destination: '/x',
          source: '/not/there',
          type: 'bind',
          options: ['rbind'],
        }),
      );
      const failed = (await rejection(create('bad', nowhere))) as Error;
      expect(failed.message).toContain('/not/there');
      await create('bad', specOf(processOf(['/not/a/program'])));
      const start = empty('StartContainer', StartContainerRequest, { containerId: 'bad' });
      expect(((await rejection(start)) as Error).message).toContain('/not/a/program');
      await empty('RemoveContainer', RemoveContainerRequest, { containerId: 'bad' });
      expect(await shell(guest, 'ls -d /sys/fs/cgroup/containers/*/ 2>/dev/null || true')).toBe('');
    },
    TIMEOUT_MS,
  );
});
