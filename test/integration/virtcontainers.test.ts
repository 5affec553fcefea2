/** The built-in hypervisor: one guest that boots, has a disk, is saved, and dies. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { Machine } from '../../lib/machine/index.js';
import { packageRoot } from '../../lib/native/package-root.js';
import {
  createSandbox,
  fetchSandbox,
  listSandboxes,
  statusSandbox,
  type VcSandbox,
} from '../../lib/virtcontainers/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const home = useHome();
const DISK_BYTES = 64 * 1024;

/** What another process is told when it asks for this. */
async function elsewhere(call: string): Promise<unknown> {
  const child = fork(join(packageRoot(), 'test/fixtures/virtcontainers.mjs'), ['vm', call], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const [answer] = (await once(child, 'message')) as [unknown];
  return answer;
}

describeGuest('a sandbox with a VM', () => {
  let sandbox: VcSandbox;
  /** What the VM is, to end it as a guest would. */
  let machine: Machine | undefined;
  let directory = '';

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'embervm-vc-'));
    const created = vi.spyOn(Machine, 'create');
    sandbox = await createSandbox({
      id: 'vm',
      vmConfig: { vcpus: 1, memory: 128 },
      hypervisorConfig: { kernelParams: [{ key: 'panic', value: '-1' }] },
      containers: [{ id: 'c' }],
    });
    machine = await created.mock.results[0]?.value;
    created.mockRestore();
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await machine?.close();
    await rm(directory, { recursive: true, force: true });
  });

  test('is ready when its guest is, and takes disks', async () => {
    expect(sandbox.state).toBe('ready');
    await sandbox.start();
    const hostPath = join(directory, 'disk');
    await writeFile(hostPath, 'x');
    await truncate(hostPath, DISK_BYTES);
    const disk = { hostPath, containerPath: '/dev/data' };
    expect(await sandbox.addDevice(disk)).toMatchObject({ guestPath: '/dev/vdb', references: 1 });
    expect(await sandbox.addDevice(disk)).toMatchObject({ guestPath: '/dev/vdb', references: 2 });
    const missing = sandbox.addDevice({ ...disk, hostPath: join(directory, 'none') });
    expect((await rejection(missing)).code).toBe('ERR_DRIVE_NOT_FOUND');
    await sandbox.removeDevice('drive-0');
    await sandbox.removeDevice('drive-0');
    expect(await sandbox.addDevice(disk)).toMatchObject({ id: 'drive-0', references: 1 });
    const nic = { device: 'tap0', name: 'eth0', hwAddr: '02:00:00:00:00:01', linkType: 'tap' };
    const refused = sandbox.addInterface(nic as Parameters<VcSandbox['addInterface']>[0]);
    expect((await rejection(refused)).code).toBe('ERR_UNSUPPORTED');
    expect(await sandbox.listInterfaces()).toEqual([]);
  });

  test('is paused, saved and resumed', async () => {
    await sandbox.pause();
    await sandbox.save(join(directory, 'saved'));
    expect(await readdir(join(directory, 'saved'))).toContain('state');
    await sandbox.resume();
    expect(await statusSandbox('vm')).toMatchObject({
      state: 'running',
      containersStatus: [{ id: 'c', state: 'running' }],
    });
  });

  test('is seen by other processes, which cannot act on it', async () => {
    expect(await elsewhere('status')).toBe('running');
    expect(await elsewhere('pause')).toBe(`ERR_SANDBOX_NOT_OWNER ${process.pid}`);
    expect(await elsewhere('delete')).toBe('ERR_INVALID_STATE undefined');
  });

  test('is let go and found again', async () => {
    await sandbox.release();
    sandbox = await fetchSandbox('vm');
    await sandbox.removeDevice('drive-0');
  });

  test('dies under its monitor, and is stopped and deleted all the same', async () => {
    const monitor = await sandbox.monitor();
    await machine?.kill();
    const failure = await monitor.ended;
    expect(failure).toMatchObject({ code: 'ERR_SANDBOX_CRASHED', context: { sandbox: 'vm' } });
    expect((await rejection(sandbox.pause())).code).toBe('ERR_SANDBOX_CRASHED');
    expect((await rejection(sandbox.createContainer({ id: 'd' }))).code).toBe(
      'ERR_SANDBOX_CRASHED',
    );
    await sandbox.stop();
    expect((await sandbox.status()).containersStatus).toMatchObject([{ state: 'stopped' }]);
    await sandbox.delete();
    expect(await readdir(join(home, 'virtcontainers'))).toEqual([]);
  });

  test('that cannot boot leaves nothing', async () => {
    const hypervisorConfig = { kernelPath: join(directory, 'none') };
    const failed = await rejection(createSandbox({ id: 'vm', hypervisorConfig }));
    expect(failed.code).toBe('ERR_KERNEL_NOT_FOUND');
    expect(await listSandboxes()).toEqual([]);
    expect(await readdir(join(home, 'virtcontainers'))).toEqual([]);
  });
});
