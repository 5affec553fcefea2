import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { message } from '../../lib/rpc/container-client.js';
import {
  CloseStdinRequest,
  CreateSandboxRequest,
  ExecProcessRequest,
  PauseContainerRequest,
  ReadStreamRequest,
  ReadStreamResponse,
  RemoveContainerRequest,
  SignalProcessRequest,
  StartContainerRequest,
  UpdateContainerRequest,
  WriteStreamRequest,
  WriteStreamResponse,
} from '../../lib/rpc/gen/kata_agent_pb.js';
import {
  CheckRequest,
  HealthCheckResponse,
  HealthCheckResponse_ServingStatus,
} from '../../lib/rpc/gen/kata_health_pb.js';
import * as oci from '../../lib/rpc/gen/kata_oci_pb.js';
import { shell } from '../helpers/agent-guest.js';
import { CALL_TIMEOUT_MS, ContainerGuest, processOf, specOf } from '../helpers/container-guest.js';
import { BOOT_TIMEOUT_MS, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const TIMEOUT_MS = CALL_TIMEOUT_MS;
const KILLED = 128 + 9;

let directory = '';

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-containers-'));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

describeGuest('containers in a guest', () => {
  let box: ContainerGuest;

  beforeAll(async () => {
    box = await ContainerGuest.boot(directory);
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await box?.close();
  });

  test('need a sandbox, of which there is one', async () => {
    const { status } = await box.client.call('Check', [CheckRequest, {}], HealthCheckResponse);
    expect(status).toBe(HealthCheckResponse_ServingStatus.SERVING);
    const early = await rejection(box.create('a', specOf(processOf(['/bin/sh']))));
    expect(early).toMatchObject({ status: 9 });
    await box.empty('CreateSandbox', CreateSandboxRequest, { sandboxId: 'one' });
    const again = await rejection(box.empty('CreateSandbox', CreateSandboxRequest, {}));
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
      const { code, out, err } = await box.run('first', spec);
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
      const { out } = await box.run('second', specOf(processOf(['sh', '-c', script], more), linux));
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
      await box.create(containerId, specOf(processOf(['sh', '-c', 'exec busybox cat'])));
      expect(await rejection(box.create(containerId, specOf(processOf(['sh']))))).toMatchObject({
        status: 6,
      });
      await box.empty('StartContainer', StartContainerRequest, { containerId });
      const data = Buffer.from('hello\n');
      const written = await box.client.call(
        'WriteStdin',
        [WriteStreamRequest, { containerId, data }],
        WriteStreamResponse,
      );
      expect(written.len).toBe(data.length);
      const read = [ReadStreamRequest, { containerId, len: 100 }] as const;
      const echoed = await box.client.call('ReadStdout', read, ReadStreamResponse);
      expect(Buffer.from(echoed.data).toString()).toBe('hello\n');

      const Process = processOf(['busybox', 'ps', '-o', 'args']);
      const exec = { containerId, execId: 'ps', process: Process };
      await box.empty('ExecProcess', ExecProcessRequest, exec);
      expect(await box.wait(containerId, 'ps')).toBe(0);
      expect(await box.output(containerId, 'ReadStdout', 'ps')).toContain('busybox cat');

      await box.empty('PauseContainer', PauseContainerRequest, { containerId });
      const paused = await rejection(
        box.empty('ExecProcess', ExecProcessRequest, { ...exec, execId: 'x' }),
      );
      expect(paused).toMatchObject({ status: 9 });
      await box.empty('ResumeContainer', PauseContainerRequest, { containerId });
      const resources = message(oci.LinuxResources, {
        Pids: message(oci.LinuxPids, { Limit: 9n }),
      });
      await box.empty('UpdateContainer', UpdateContainerRequest, { containerId, resources });
      await box.empty('CloseStdin', CloseStdinRequest, { containerId });
      expect(await box.wait(containerId)).toBe(0);
      await box.empty('RemoveContainer', RemoveContainerRequest, { containerId });

      await box.create(containerId, specOf(processOf(['sh', '-c', 'busybox sleep 1000'])));
      await box.empty('StartContainer', StartContainerRequest, { containerId });
      await box.empty('SignalProcess', SignalProcessRequest, { containerId, signal: 9 });
      expect(await box.wait(containerId)).toBe(KILLED);
      await box.empty('RemoveContainer', RemoveContainerRequest, { containerId });
      expect(await rejection(box.wait(containerId))).toMatchObject({ status: 3 });
    },
    TIMEOUT_MS,
  );

  test(
    'are refused by the name of the field, and leave nothing behind',
    async () => {
      const label = specOf(processOf(['sh'], { SelinuxLabel: 'a:b:c' }));
      expect(await rejection(box.create('bad', label))).toMatchObject({ status: 12 });
      const nowhere = specOf(processOf(['sh']));
      nowhere.Mounts.push(
        message(oci.Mount, {
          destination: '/x',
          source: '/not/there',
          type: 'bind',
          options: ['rbind'],
        }),
      );
      const failed = (await rejection(box.create('bad', nowhere))) as Error;
      expect(failed.message).toContain('/not/there');
      await box.create('bad', specOf(processOf(['/not/a/program'])));
      const start = box.empty('StartContainer', StartContainerRequest, { containerId: 'bad' });
      expect(((await rejection(start)) as Error).message).toContain('/not/a/program');
      await box.empty('RemoveContainer', RemoveContainerRequest, { containerId: 'bad' });
      expect(await shell(box.guest, 'ls -d /sys/fs/cgroup/containers/*/ 2>/dev/null || true')).toBe(
        '',
      );
    },
    TIMEOUT_MS,
  );
});
