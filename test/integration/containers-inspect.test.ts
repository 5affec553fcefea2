import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { message } from '../../lib/rpc/container-client.js';
import {
  DestroySandboxRequest,
  ExecProcessRequest,
  GetOOMEventRequest,
  ListProcessesRequest,
  ListProcessesResponse,
  OOMEvent,
  StatsContainerRequest,
  StatsContainerResponse,
} from '../../lib/rpc/gen/kata_agent_pb.js';
import * as oci from '../../lib/rpc/gen/kata_oci_pb.js';
import { CALL_TIMEOUT_MS, ContainerGuest, processOf, specOf } from '../helpers/container-guest.js';
import { BOOT_TIMEOUT_MS, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const TIMEOUT_MS = CALL_TIMEOUT_MS;
const MIB = 1024n * 1024n;

describeGuest('what containers tell of themselves', () => {
  let directory = '';
  let box: ContainerGuest;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'embervm-inspect-'));
    box = await ContainerGuest.boot(directory);
    await box.createSandbox();
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await box?.close();
    await rm(directory, { recursive: true, force: true });
  });

  const stats = (containerId: string): Promise<StatsContainerResponse> =>
    box.call('StatsContainer', [StatsContainerRequest, { containerId }], StatsContainerResponse);

  test(
    'statistics are those of its control group and its interfaces',
    async () => {
      const containerId = 'stats';
      const script = 'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo done; read line';
      const linux = {
        Resources: message(oci.LinuxResources, {
          Memory: message(oci.LinuxMemory, { Limit: 32n * MIB }),
          Pids: message(oci.LinuxPids, { Limit: 20n }),
        }),
      };
      await box.create(containerId, specOf(processOf(['sh', '-c', script]), linux));
      const before = await stats(containerId);
      await box.start(containerId);
      expect(await box.read(containerId)).toBe('done\n');
      const { cgroupStats, networkStats } = await stats(containerId);
      expect(cgroupStats?.pidsStats).toMatchObject({ current: 1n, limit: 20n });
      const memory = cgroupStats?.memoryStats;
      expect(memory?.usage?.limit).toBe(32n * MIB);
      expect(memory?.usage?.usage).toBeGreaterThan(0n);
      expect(memory?.useHierarchy).toBe(true);
      const names = Object.keys(memory?.stats ?? {});
      expect(names).toEqual(expect.arrayContaining(['anon', 'file', 'pgfault']));
      const used = cgroupStats?.cpuStats?.cpuUsage?.totalUsage ?? 0n;
      expect(used).toBeGreaterThan(before.cgroupStats?.cpuStats?.cpuUsage?.totalUsage ?? used);
      expect(networkStats.map(({ name }) => name)).toContain('lo');
      await box.remove(containerId);
      expect(await rejection(stats(containerId))).toMatchObject({ status: 3 });
    },
    TIMEOUT_MS,
  );

  async function list(containerId: string, format: string, args: string[] = []): Promise<string> {
    const fields = { containerId, format, args };
    const request = [ListProcessesRequest, fields] as const;
    const { processList } = await box.call('ListProcesses', request, ListProcessesResponse);
    return Buffer.from(processList).toString();
  }

  test(
    'processes are listed by their PIDs in the guest, and as a table',
    async () => {
      const containerId = 'ps';
      const script = 'busybox sleep 1000 & echo started; read line';
      await box.create(containerId, specOf(processOf(['sh', '-c', script])));
      await box.start(containerId);
      expect(await box.read(containerId)).toBe('started\n');
      const pids = JSON.parse(await list(containerId, 'json')) as number[];
      expect(pids).toHaveLength(2);
      // PID 1 in the container, and another one here.
      expect(pids).not.toContain(1);
      const [header, ...rows] = (await list(containerId, 'table')).trimEnd().split('\n');
      expect(header?.split(/\s+/)).toEqual([
        'UID',
        'PID',
        'PPID',
        'C',
        'STIME',
        'TTY',
        'TIME',
        'CMD',
      ]);
      expect(rows.map((row) => Number(row.split(/\s+/)[1])).sort()).toEqual([...pids].sort());
      expect(rows.join('\n')).toContain('busybox sleep 1000');
      const chosen = await list(containerId, 'table', ['-o', 'pid,ppid']);
      const pairs = chosen.trimEnd().split('\n').slice(1);
      const parents = pairs.map((pair) => Number(pair.trim().split(/\s+/)[1]));
      expect(pids).toEqual(expect.arrayContaining([parents[1]]));
      expect(await rejection(list(containerId, 'xml'))).toMatchObject({ status: 3 });
      expect(await rejection(list(containerId, 'table', ['aux']))).toMatchObject({ status: 3 });
      expect(await rejection(list('nobody', 'json'))).toMatchObject({ status: 3 });
      await box.remove(containerId);
    },
    TIMEOUT_MS,
  );

  const outOfMemory = async (): Promise<string> => {
    const request = [GetOOMEventRequest, {}] as const;
    return (await box.call('GetOOMEvent', request, OOMEvent)).containerId;
  };

  test(
    'who waits is told of each container that runs out of memory, once, and of the end',
    async () => {
      const linux = {
        Resources: message(oci.LinuxResources, {
          Memory: message(oci.LinuxMemory, { Limit: 4n * MIB }),
        }),
      };
      const greedy = processOf(['busybox', 'dd', 'if=/dev/zero', 'of=/dev/null', 'bs=64M']);
      // One that waits is told of one, and a second one of the next.
      const first = outOfMemory();
      const second = outOfMemory();
      expect((await box.run('greedy', specOf(greedy, linux))).code).toBe(128 + 9);
      expect(await first).toBe('greedy');
      // A process beside the first, which lives on.
      const patient = specOf(processOf(['sh', '-c', 'read line']), linux);
      await box.create('patient', patient);
      await box.start('patient');
      const exec = { containerId: 'patient', execId: 'eater', process: greedy };
      await box.empty('ExecProcess', ExecProcessRequest, exec);
      expect(await box.wait('patient', 'eater')).toBe(128 + 9);
      expect(await second).toBe('patient');
      // What nobody waited for is kept, also when the container is gone.
      expect((await box.run('early', specOf(greedy, linux))).code).toBe(128 + 9);
      expect(await outOfMemory()).toBe('early');
      const last = [rejection(outOfMemory()), rejection(outOfMemory())];
      await box.empty('DestroySandbox', DestroySandboxRequest, {});
      for (const end of await Promise.all(last)) expect(end).toMatchObject({ status: 14 });
      expect(await rejection(outOfMemory())).toMatchObject({ status: 9 });
      await box.createSandbox();
    },
    4 * TIMEOUT_MS,
  );
});
