import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { SandboxConfig } from '../../lib/virtcontainers/index.js';
import * as vc from '../../lib/virtcontainers/index.js';
import { useFreshHome } from '../helpers/home.js';
import { rejection, thrown } from '../helpers/rejection.js';

const sandboxes = useFreshHome();
const root = (): string => join(dirname(sandboxes()), 'virtcontainers');
const mock = (id: string, more: SandboxConfig = {}): SandboxConfig => ({
  id,
  hypervisorType: 'mock',
  ...more,
});
const codeOf = async (promise: Promise<unknown>): Promise<string> =>
  (await rejection(promise)).code;

afterEach(() => vc.setStorage());

describe('a life', () => {
  test('create, start, stop, delete; nothing is left', async () => {
    const containers = [{ id: 'one', rootFs: '/roots/one', annotations: { a: 'b' } }];
    const sandbox = await vc.createSandbox(mock('pod', { containers, annotations: { k: 'v' } }));
    expect(sandbox.id).toBe('pod');
    expect(await vc.statusSandbox('pod')).toEqual({
      id: 'pod',
      state: 'ready',
      hypervisor: 'mock',
      hypervisorConfig: expect.objectContaining({ numVcpus: 1 }),
      agent: 'noop',
      containersStatus: [
        {
          id: 'one',
          state: 'ready',
          pid: 0,
          startTime: expect.any(Date),
          rootFs: '/roots/one',
          annotations: { a: 'b' },
        },
      ],
      annotations: { k: 'v' },
    });
    expect(await vc.startSandbox('pod')).toBe(sandbox);
    expect([sandbox.state, sandbox.getContainer('one')?.state]).toEqual(['running', 'running']);
    await vc.stopSandbox('pod');
    await vc.stopSandbox('pod');
    expect([sandbox.state, sandbox.getContainer('one')?.state]).toEqual(['stopped', 'stopped']);
    await vc.deleteSandbox('pod');
    expect(await readdir(root())).toEqual([]);
    expect(await codeOf(vc.deleteSandbox('pod'))).toBe('ERR_SANDBOX_NOT_FOUND');
    await sandbox.delete();
  });

  test('a stopped sandbox starts again, with its containers', async () => {
    const sandbox = await vc.runSandbox(mock('again', { containers: [{ id: 'c' }] }));
    await sandbox.stop();
    await sandbox.start();
    expect(await sandbox.status()).toMatchObject({
      state: 'running',
      containersStatus: [{ id: 'c', state: 'running' }],
    });
    await sandbox.stop();
  });

  test('pause and resume remember what ran', async () => {
    const sandbox = await vc.runSandbox(mock('pause', { containers: [{ id: 'runs' }] }));
    await sandbox.createContainer({ id: 'waits' });
    await vc.pauseSandbox('pause');
    const states = (): unknown[] => sandbox.getAllContainers().map(({ state }) => state);
    expect(states()).toEqual(['paused', 'ready']);
    await vc.resumeSandbox('pause');
    expect(states()).toEqual(['running', 'ready']);
    await sandbox.pause();
    await sandbox.resume({ allRunning: true });
    expect(states()).toEqual(['running', 'running']);
  });

  test('deleting one that is ready ends its VM, too', async () => {
    const sandbox = await vc.createSandbox(mock('early', { containers: [{ id: 'c' }] }));
    await sandbox.delete();
    expect(existsSync(join(root(), 'early'))).toBe(false);
    expect(await codeOf(sandbox.start())).toBe('ERR_SANDBOX_NOT_FOUND');
  });

  test('lists are in the order of creation, and skip what cannot be read', async () => {
    expect(await vc.listSandbox()).toEqual([]);
    for (const id of ['z', 'b', 'a']) await vc.createSandbox(mock(id));
    await mkdir(join(root(), 'torn'));
    await writeFile(join(root(), 'torn', 'sandbox.json'), '{"version":1,');
    expect((await vc.listSandboxes()).map(({ id }) => id)).toEqual(['z', 'b', 'a']);
    expect(await codeOf(vc.statusSandbox('torn'))).toBe('ERR_STATE_CORRUPT');
    expect(await codeOf(vc.createSandbox(mock('torn')))).toBe('ERR_SANDBOX_EXISTS');
    await writeFile(join(root(), 'torn', 'sandbox.json'), '{"version":1,"id":"torn"}');
    expect(await codeOf(vc.statusSandbox('torn'))).toBe('ERR_STATE_CORRUPT');
  });

  test('an id is made up where there is none', async () => {
    const { id } = await vc.createSandbox({ hypervisorType: 'mock' });
    expect((await vc.fetchSandbox(id)).id).toBe(id);
  });
});

describe('ids', () => {
  test('that are empty are named before anything is done', async () => {
    const { processListContainer: list } = vc;
    const needSandbox: Promise<unknown>[] = [
      vc.createSandbox(mock('')),
      vc.deleteSandbox(''),
      vc.startSandbox(''),
      vc.stopSandbox(''),
      vc.runSandbox(mock('')),
      vc.statusSandbox(''),
      vc.pauseSandbox(''),
      vc.resumeSandbox(''),
      vc.fetchSandbox(''),
      vc.createContainer('', { id: '' }),
      vc.deleteContainer('', ''),
      vc.startContainer('', ''),
      vc.stopContainer('', ''),
      vc.enterContainer('', '', { args: ['a'] }),
      vc.statusContainer('', ''),
      vc.killContainer('', '', 9),
      list('', '', { format: 'json' }),
      vc.statusSandbox(undefined as unknown as string),
    ];
    for (const code of await Promise.all(needSandbox.map(codeOf)))
      expect(code).toBe('ERR_NEED_SANDBOX_ID');
    const needContainer: Promise<unknown>[] = [
      vc.createContainer('none', { id: '' }),
      vc.deleteContainer('none', ''),
      vc.startContainer('none', ''),
      vc.stopContainer('none', ''),
      vc.enterContainer('none', '', { args: ['a'] }),
      vc.statusContainer('none', ''),
      vc.killContainer('none', '', 9),
      list('none', '', { format: 'json' }),
    ];
    for (const code of await Promise.all(needContainer.map(codeOf)))
      expect(code).toBe('ERR_NEED_CONTAINER_ID');
    expect(existsSync(root())).toBe(false);
  });

  test('that nobody has are not found, and leave no trace', async () => {
    for (const id of ['none', '../sandboxes', 'a/b', 'x'.repeat(500)]) {
      expect(await codeOf(vc.statusSandbox(id))).toBe('ERR_SANDBOX_NOT_FOUND');
      expect(await codeOf(vc.deleteSandbox(id))).toBe('ERR_SANDBOX_NOT_FOUND');
      expect(await codeOf(vc.startContainer(id, 'c'))).toBe('ERR_SANDBOX_NOT_FOUND');
    }
    expect(existsSync(root())).toBe(false);
    const sandbox = await vc.runSandbox(mock('pod'));
    expect(sandbox.getContainer('none')).toBeUndefined();
    expect(await codeOf(vc.statusContainer('pod', 'none'))).toBe('ERR_CONTAINER_NOT_FOUND');
    expect(await codeOf(vc.deleteContainer('pod', 'none'))).toBe('ERR_CONTAINER_NOT_FOUND');
    expect(await codeOf(sandbox.killContainer('none', 9))).toBe('ERR_CONTAINER_NOT_FOUND');
    expect(thrown(() => sandbox.annotations('none')).code).toBe('ERR_ANNOTATION_NOT_FOUND');
    expect(thrown(() => sandbox.annotations('toString')).code).toBe('ERR_ANNOTATION_NOT_FOUND');
  });

  test('that are taken are refused, and what has them is as it was', async () => {
    const sandbox = await vc.runSandbox(mock('pod', { containers: [{ id: 'c' }] }));
    const before = await readFile(join(root(), 'pod', 'sandbox.json'), 'utf8');
    expect(await codeOf(vc.createSandbox(mock('pod')))).toBe('ERR_SANDBOX_EXISTS');
    expect(await codeOf(sandbox.createContainer({ id: 'c' }))).toBe('ERR_CONTAINER_EXISTS');
    expect(await readFile(join(root(), 'pod', 'sandbox.json'), 'utf8')).toBe(before);
    const both = await Promise.allSettled([
      vc.createSandbox(mock('race')),
      vc.createSandbox(mock('race')),
    ]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(both.find(({ status }) => status === 'rejected')).toMatchObject({
      reason: { code: 'ERR_SANDBOX_EXISTS' },
    });
  });
});

describe('containers', () => {
  test('are created, entered, listed, signalled, stopped and deleted', async () => {
    await vc.runSandbox(mock('pod'));
    const { sandbox, container } = await vc.createContainer('pod', {
      id: 'c',
      cmd: { args: ['/bin/sh'] },
      annotations: { key: 'value' },
    });
    expect(container.sandbox).toBe(sandbox);
    expect(container.getToken()).toBe('c');
    expect(container.getAnnotations()).toEqual({ key: 'value' });
    expect(container.state).toBe('ready');
    expect(await vc.startContainer('pod', 'c')).toBe(container);
    expect(container.state).toBe('running');

    const entered = await vc.enterContainer('pod', 'c', { args: ['ls'] });
    expect(entered.container).toBe(container);
    expect(entered.process).toMatchObject({ pid: 0, startTime: expect.any(Date) });
    expect(entered.process.token).toMatch(/^[0-9a-f-]{36}$/);
    expect(await vc.processListContainer('pod', 'c', { format: 'json' })).toEqual([]);
    expect(await vc.processListContainer('pod', 'c', { format: 'table' })).toBe('');
    const bad = vc.processListContainer('pod', 'c', { format: 'xml' as 'json' });
    expect(await codeOf(bad)).toBe('ERR_INVALID_CONFIG');
    await vc.killContainer('pod', 'c', 'SIGTERM', true);
    expect(await codeOf(vc.killContainer('pod', 'c', 99))).toBe('ERR_INVALID_CONFIG');
    expect(await sandbox.waitProcess('c', entered.process.token)).toBe(0);
    await sandbox.winsizeProcess('c', entered.process.token, 24, 80);
    expect(await codeOf(sandbox.winsizeProcess('c', '', 0, 80))).toBe('ERR_INVALID_CONFIG');

    await vc.stopContainer('pod', 'c');
    await vc.stopContainer('pod', 'c');
    expect(await vc.statusContainer('pod', 'c')).toMatchObject({ state: 'stopped' });
    expect(await vc.deleteContainer('pod', 'c')).toBe(container);
    expect(container.state).toBe('stopped');
    expect(await codeOf(vc.deleteContainer('pod', 'c'))).toBe('ERR_CONTAINER_NOT_FOUND');
  });

  test('each stream of a process ends by itself', async () => {
    const sandbox = await vc.runSandbox(mock('pod', { containers: [{ id: 'c' }] }));
    const { stdin, stdout, stderr } = await sandbox.ioStream('c', '');
    await new Promise((resolve) => stdin.end('input', () => resolve(undefined)));
    for (const stream of [stdout, stderr]) {
      const chunks: unknown[] = [];
      for await (const chunk of stream) chunks.push(chunk);
      expect(chunks).toEqual([]);
    }
    const late = await new Promise((resolve) => stdin.write('more', (error) => resolve(error)));
    expect(late).toMatchObject({ code: 'ERR_STREAM_WRITE_AFTER_END' });
  });

  test('setPid and setAnnotations are kept', async () => {
    const sandbox = await vc.runSandbox(mock('pod', { containers: [{ id: 'c' }] }));
    await sandbox.setAnnotations({ a: '1', b: '2' });
    await sandbox.setAnnotations({ b: '3' });
    await sandbox.getContainer('c')?.setPid(process.pid);
    await sandbox.release();
    const fetched = await vc.fetchSandbox('pod');
    expect(fetched).not.toBe(sandbox);
    expect(fetched.getAnnotations()).toEqual({ a: '1', b: '3' });
    expect(fetched.annotations('b')).toBe('3');
    expect(fetched.getContainer('c')?.getPid()).toBe(process.pid);
    expect(await rejection(sandbox.status())).toMatchObject({
      code: 'ERR_INVALID_STATE',
      context: { subject: 'handle' },
    });
  });
});

describe('devices', () => {
  test('are in the VM once, and as long as somebody has them', async () => {
    const sandbox = await vc.runSandbox(mock('pod'));
    const disk = { hostPath: '/disks/a', containerPath: '/dev/a' };
    const first = await sandbox.addDevice(disk);
    expect(first).toMatchObject({ id: 'drive-0', guestPath: '/dev/vdb', references: 1 });
    expect(first.info).toMatchObject({ hotplugged: true, id: 'drive-0' });
    expect(await sandbox.addDevice({ ...disk, containerPath: '/dev/again' })).toMatchObject({
      id: 'drive-0',
      references: 2,
    });
    // Files have no numbers: two of them are two disks.
    const other = await sandbox.addDevice({ hostPath: '/disks/b', containerPath: '/dev/b' });
    expect(other).toMatchObject({ id: 'drive-1', guestPath: '/dev/vdc' });
    const holder = await sandbox.createContainer({ id: 'c', deviceInfos: [disk] });
    await sandbox.removeDevice('drive-0');
    await sandbox.removeDevice('drive-0');
    expect(await sandbox.addDevice(disk)).toMatchObject({ id: 'drive-0', references: 2 });
    await sandbox.removeDevice('drive-0');
    await sandbox.deleteContainer(holder.id);
    expect(await codeOf(sandbox.removeDevice('drive-0'))).toBe('ERR_DEVICE_NOT_FOUND');
    for (let n = 0; n < 7; n += 1) {
      await sandbox.addDevice({ hostPath: `/disks/${n}`, containerPath: '/dev/x' });
    }
    const full = sandbox.addDevice({ hostPath: '/disks/full', containerPath: '/dev/x' });
    expect(await codeOf(full)).toBe('ERR_NO_FREE_SLOT');
    await sandbox.stop();
    await sandbox.start();
    expect((await sandbox.addDevice(disk)).id).toBe('drive-0');
  });

  test('that are refused leave nothing', async () => {
    const hypervisorConfig = { disableBlockDeviceUse: true };
    const sandbox = await vc.runSandbox(mock('pod', { hypervisorConfig }));
    const disk = { hostPath: '/disks/a', containerPath: '/dev/a' };
    expect(await codeOf(sandbox.addDevice(disk))).toBe('ERR_UNSUPPORTED');
    expect(await codeOf(sandbox.addDevice({ ...disk, devType: 'c' }))).toBe('ERR_UNSUPPORTED');
    const refused = sandbox.createContainer({ id: 'c', deviceInfos: [disk] });
    expect(await codeOf(refused)).toBe('ERR_UNSUPPORTED');
    expect(sandbox.getAllContainers()).toEqual([]);
  });
});

test('interfaces and routes', async () => {
  const sandbox = await vc.runSandbox(mock('pod'));
  const nic = {
    device: 'tap0',
    name: 'eth0',
    hwAddr: '02:00:00:00:00:01',
    linkType: 'tap',
  } as const;
  const added = await sandbox.addInterface(nic);
  expect(added).toMatchObject({ mtu: 1500 });
  expect(await codeOf(sandbox.addInterface({ ...nic, name: 'eth1' }))).toBe('ERR_DEVICE_EXISTS');
  expect(await sandbox.listInterfaces()).toEqual([added]);
  const routes = await sandbox.updateRoutes([
    { dest: 'default', gateway: '10.0.0.1', device: 'eth0' },
    { dest: '10.0.0.0/24', device: 'eth0' },
  ]);
  expect(routes.map(({ dest }) => dest)).toEqual(['10.0.0.0/24', '']);
  expect(await sandbox.listRoutes()).toEqual(routes);
  expect(await sandbox.removeInterface({ hwAddr: '02:00:00:00:00:99' })).toBeUndefined();
  expect(await sandbox.removeInterface(nic)).toEqual(added);
  expect(await sandbox.listInterfaces()).toEqual([]);
  expect(await sandbox.listRoutes()).toEqual([]);
});

describe('a VM that dies', () => {
  test('is told at once to who monitors it, and ends under every call', async () => {
    const sandbox = await vc.runSandbox(mock('pod', { containers: [{ id: 'c' }] }));
    await using monitor = await sandbox.monitor();
    await vc.crashMock('pod', 'a test');
    expect(await monitor.ended).toMatchObject({ code: 'ERR_SANDBOX_CRASHED', reason: 'a test' });
    const again = await rejection(sandbox.monitor());
    expect(again.code).toBe('ERR_SANDBOX_CRASHED');
    const calls = [
      sandbox.pause(),
      sandbox.createContainer({ id: 'd' }),
      sandbox.enterContainer('c', { args: ['a'] }),
      sandbox.killContainer('c', 9),
      sandbox.signalProcess('c', '', 9),
      sandbox.processListContainer('c', { format: 'json' }),
      sandbox.waitProcess('c', ''),
      sandbox.winsizeProcess('c', '', 1, 1),
      sandbox.ioStream('c', ''),
      sandbox.addDevice({ hostPath: '/d', containerPath: '/d' }),
      sandbox.listInterfaces(),
      sandbox.listRoutes(),
      sandbox.updateRoutes([]),
    ];
    for (const code of await Promise.all(calls.map(codeOf)))
      expect(code).toBe('ERR_SANDBOX_CRASHED');
    expect((await sandbox.status()).state).toBe('running');
    await sandbox.stopContainer('c');
    await sandbox.stop();
    await sandbox.start();
    expect((await sandbox.status()).state).toBe('running');
    await vc.crashMock('pod');
    await sandbox.stop();
    await sandbox.delete();
    expect(await readdir(root())).toEqual([]);
  });

  test('does not outlive a delete', async () => {
    const sandbox = await vc.createSandbox(mock('pod', { containers: [{ id: 'c' }] }));
    await vc.crashMock('pod');
    expect(await codeOf(sandbox.start())).toBe('ERR_SANDBOX_CRASHED');
    await vc.deleteSandbox('pod');
    expect(await vc.listSandbox()).toEqual([]);
  });

  test.each(['pause', 'stop', 'release'] as const)(
    'a monitor ends in order with %s',
    async (how) => {
      const sandbox = await vc.runSandbox(mock('pod'));
      const monitor = await sandbox.monitor();
      await sandbox[how]();
      expect(await monitor.ended).toBeUndefined();
      const seen: unknown[] = [];
      for await (const failure of monitor) seen.push(failure);
      expect(seen).toEqual([]);
    },
  );
});

test('a VM that ended with its process has left a sandbox that is stopped', async () => {
  await vc.runSandbox(mock('lost', { containers: [{ id: 'c' }] }));
  const path = join(root(), 'lost', 'sandbox.json');
  const record = JSON.parse(await readFile(path, 'utf8')) as { config: object };
  const config = { ...record.config, hypervisorType: 'builtin' };
  // As a process leaves it that was killed: the record says "running", and nobody has the VM.
  const gone = await vc.createSandbox(mock('gone'));
  await gone.delete();
  await mkdir(join(root(), 'gone'));
  const left = { ...record, id: 'gone', owner: 2 ** 22, config };
  await writeFile(join(root(), 'gone', 'sandbox.json'), JSON.stringify(left));
  expect(await vc.statusSandbox('gone')).toMatchObject({
    state: 'stopped',
    containersStatus: [{ id: 'c', state: 'stopped' }],
  });
  expect(await codeOf(vc.pauseSandbox('gone'))).toBe('ERR_INVALID_STATE');
  await vc.stopSandbox('gone');
  await vc.deleteSandbox('gone');
  expect((await vc.listSandbox()).map(({ id }) => id)).toEqual(['lost']);
});

describe('storages', () => {
  test.each(['filesystem', 'leveldb'] as const)('%s keeps sandboxes', async (name) => {
    vc.setStorage(name);
    const sandbox = await vc.runSandbox(mock('pod', { containers: [{ id: 'c' }] }));
    await sandbox.release();
    expect(await vc.statusSandbox('pod')).toMatchObject({
      state: 'running',
      containersStatus: [{ id: 'c' }],
    });
    await vc.stopSandbox('pod');
    await vc.deleteSandbox('pod');
    expect(await vc.listSandbox()).toEqual([]);
  });

  test('a save that fails changes nothing, and the VM of a creation is ended', async () => {
    const failing: vc.Storage = {
      save: async () => {
        throw new Error('disk full');
      },
      load: async () => undefined,
      delete: async () => {},
      list: async () => [],
    };
    vc.setStorage(failing);
    await expect(vc.createSandbox(mock('pod'))).rejects.toThrow('disk full');
    expect(await readdir(root())).toEqual([]);
  });
});

test('calls on one sandbox wait for each other', async () => {
  await vc.runSandbox(mock('pod'));
  const ids = Array.from({ length: 12 }, (_, n) => `c${n}`);
  await Promise.all(ids.map((id) => vc.createContainer('pod', { id })));
  await Promise.all(ids.map((id) => vc.startContainer('pod', id)));
  const { containersStatus } = await vc.statusSandbox('pod');
  expect(containersStatus.map(({ id }) => id).sort()).toEqual([...ids].sort());
  expect(new Set(containersStatus.map(({ state }) => state))).toEqual(new Set(['running']));
  const signal = AbortSignal.abort();
  expect(await codeOf(vc.startSandbox('pod', { signal }))).toBe('ERR_ABORTED');
});
