import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { message } from '../../lib/rpc/container-client.js';
import {
  CopyFileRequest,
  GetMetricsRequest,
  GuestDetailsRequest,
  GuestDetailsResponse,
  MemHotplugByProbeRequest,
  Metrics,
  OnlineCPUMemRequest,
  ReseedRandomDevRequest,
} from '../../lib/rpc/gen/kata_agent_pb.js';
import * as oci from '../../lib/rpc/gen/kata_oci_pb.js';
import { shell } from '../helpers/agent-guest.js';
import { CALL_TIMEOUT_MS, ContainerGuest, processOf, specOf } from '../helpers/container-guest.js';
import { BOOT_TIMEOUT_MS, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const TIMEOUT_MS = CALL_TIMEOUT_MS;
const COPY_ROOT = '/run/kata-containers/shared/containers';
const REGULAR = 0o100000;
const LINK = 0o120000;
const CHUNK = 1024 * 1024;

describeGuest('what the container service does for its guest', () => {
  let directory = '';
  let box: ContainerGuest;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'embervm-machine-'));
    box = await ContainerGuest.boot(directory, 2);
    await box.createSandbox();
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await box?.close();
    await rm(directory, { recursive: true, force: true });
  });

  const copy = (path: string, fields: Partial<CopyFileRequest>): Promise<object> =>
    box.empty('CopyFile', CopyFileRequest, { path: `${COPY_ROOT}/${path}`, ...fields });

  test(
    'a file copied in chunks is mounted into a container',
    async () => {
      const content = Buffer.alloc(2 * CHUNK + 17, 'embervm ');
      const file = { fileSize: BigInt(content.length), fileMode: REGULAR | 0o644, uid: 7, gid: 8 };
      for (let offset = 0; offset < content.length; offset += CHUNK) {
        const data = content.subarray(offset, offset + CHUNK);
        await copy('volume/data', { ...file, dirMode: 0o755, offset: BigInt(offset), data });
      }
      await copy('volume/link', { fileMode: LINK, data: Buffer.from('data') });
      const script = 'busybox stat -c "%u %g %a %s" /volume/data; busybox md5sum </volume/link';
      const spec = specOf(processOf(['sh', '-c', script]));
      const mount = { destination: '/volume', source: `${COPY_ROOT}/volume`, type: 'bind' };
      spec.Mounts.push(message(oci.Mount, { ...mount, options: ['rbind', 'ro'] }));
      const { out } = await box.run('reader', spec);
      const digest = createHash('md5').update(content).digest('hex');
      expect(out.split('\n')).toEqual([`7 8 644 ${content.length}`, `${digest}  -`, '']);

      await copy('out', { fileMode: LINK, data: Buffer.from('/tmp') });
      expect(await rejection(copy('out/file', {}))).toMatchObject({ status: 3 });
      expect(await rejection(copy('../file', {}))).toMatchObject({ status: 3 });
      expect(await rejection(copy('big', { fileSize: 2n ** 40n }))).toMatchObject({ status: 8 });
    },
    TIMEOUT_MS,
  );

  test(
    'CPUs come on line, as many as there are',
    async () => {
      const online = (): Promise<string> => shell(box.guest, 'cat /sys/devices/system/cpu/online');
      const ask = (nbCpus: number): Promise<object> =>
        box.empty('OnlineCPUMem', OnlineCPUMemRequest, { wait: true, nbCpus });
      await box.guest.agent.setOnlineCpus(1);
      expect(await online()).toBe('0');
      expect(await rejection(ask(2))).toMatchObject({ status: 9 });
      await box.guest.agent.setOnlineCpus(1);
      await ask(1);
      expect(await online()).toBe('0-1');
      expect(await rejection(ask(1))).toMatchObject({ status: 9 });
      await ask(0);
    },
    TIMEOUT_MS,
  );

  test(
    'memory cannot be probed with this kernel, which the details say, too',
    async () => {
      const request = [GuestDetailsRequest, { memBlockSize: true, memHotplugProbe: true }] as const;
      const details = await box.call('GetGuestDetails', request, GuestDetailsResponse);
      expect(details.supportMemHotplugProbe).toBe(false);
      expect(details.memBlockSizeBytes).toBe(128n * 1024n * 1024n);
      const probe = box.empty('MemHotplugByProbe', MemHotplugByProbeRequest, {
        memHotplugProbeAddr: [2n ** 32n],
      });
      const refusal = (await rejection(probe)) as Error;
      expect(refusal).toMatchObject({ status: 12 });
      expect(refusal.message).toContain('/sys/devices/system/memory/probe');
    },
    TIMEOUT_MS,
  );

  test(
    'random numbers are reseeded',
    async () => {
      const reseed = (length: number): Promise<object> =>
        box.empty('ReseedRandomDev', ReseedRandomDevRequest, { data: randomBytes(length) });
      await reseed(512);
      await reseed(0);
      expect(await rejection(reseed(4097))).toMatchObject({ status: 3 });
    },
    TIMEOUT_MS,
  );

  test(
    'metrics are of the guest and of the service, each a name and a number',
    async () => {
      const scrape = async (): Promise<string> =>
        (await box.call('GetMetrics', [GetMetricsRequest, {}], Metrics)).metrics;
      expect(await scrape()).toContain('\nkata_agent_scrape_count 1\n');
      const lines = (await scrape()).trimEnd().split('\n');
      const values = new Map<string, number>();
      for (const line of lines) {
        if (line.startsWith('#')) continue;
        expect(line).toMatch(/^kata_[a-z_]+(\{[^{}]*\})? [0-9.]+$/);
        const at = line.lastIndexOf(' ');
        values.set(line.slice(0, at), Number(line.slice(at + 1)));
      }
      expect(values.get('kata_agent_scrape_count')).toBe(2);
      // More at once than the connection has room for.
      const many = await Promise.all(Array.from({ length: 50 }, scrape));
      const counts = many.map((text) => /^kata_agent_scrape_count (\d+)$/m.exec(text)?.[1]);
      expect(new Set(counts).size).toBe(50);
      expect(values.get('kata_agent_threads')).toBe(1);
      const total = values.get('kata_guest_meminfo{item="mem_total"}') ?? 0;
      expect(total).toBeGreaterThan(128 * 1024 * 1024);
      expect(total).toBeLessThan(256 * 1024 * 1024);
      expect(values.get('kata_guest_cpu_time{cpu="total",item="system"}')).toBeGreaterThan(0);
      expect(values.get('kata_guest_diskstat{disk="vda",item="reads"}')).toBeGreaterThan(0);
      expect(values.has('kata_guest_netdev_stat{interface="lo",item="recv_bytes"}')).toBe(true);
      expect(values.has('kata_guest_vm_stat{item="nr_free_pages"}')).toBe(true);
    },
    TIMEOUT_MS,
  );
});
