/** Sandboxes of other processes, which hold real locks and die real deaths, without machines. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';
import { Sandbox, setStorage } from '../../lib/index.js';
import { packageRoot } from '../../lib/native/package-root.js';
import { observe } from '../../lib/state/observe.js';
import { creationTime, newConfig } from '../../lib/state/records.js';
import { SandboxDir } from '../../lib/state/sandbox-dir.js';
import { StateWriter } from '../../lib/state/state-writer.js';
import { useFreshHome } from '../helpers/home.js';
import { rejection } from '../helpers/rejection.js';

const sandboxes = useFreshHome();
const fixture = fileURLToPath(new URL('../fixtures/holder.mjs', import.meta.url));
const state = pathToFileURL(join(packageRoot(), 'dist/state')).href;
const children: ChildProcess[] = [];

afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

async function hold(name: string, ephemeral = false): Promise<ChildProcess> {
  const child = spawn(process.execPath, [fixture, state, name, String(ephemeral)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  children.push(child);
  if (child.stdout !== null) await once(child.stdout, 'data');
  return child;
}

async function end(child: ChildProcess, how: 'killed' | 'stopped'): Promise<void> {
  const exited = once(child, 'exit');
  if (how === 'killed') child.kill('SIGKILL');
  else child.stdin?.write('stop\n');
  await exited;
}

/** A sandbox that has ended, without ever having run. */
async function plant(name: string, labels: Record<string, string> = {}): Promise<void> {
  const directory = await SandboxDir.claim(name);
  const writer = new StateWriter(directory.records, name);
  writer.set('stopped', {
    name,
    status: 'stopped',
    exitCode: null,
    signal: null,
    reason: 'requested',
    observedAt: new Date(),
  });
  await writer.flush();
  await directory.records.saveConfig(
    newConfig({
      id: `id-${name}`,
      name,
      createdAt: creationTime(),
      ephemeral: false,
      labels,
      options: { memoryMib: 64 },
    }),
  );
  await directory.keep();
  await directory.release();
}

describe.each(['filesystem', 'leveldb'] as const)('with the storage %s', (storage) => {
  const withStorage = (run: () => Promise<void>) => async (): Promise<void> => {
    setStorage(storage);
    process.env.EMBERVM_STORAGE = storage;
    try {
      await run();
    } finally {
      setStorage();
      delete process.env.EMBERVM_STORAGE;
    }
  };

  test(
    'a sandbox of another process has its true status until that process is killed',
    withStorage(async () => {
      const child = await hold('a');
      const handle = await Sandbox.get('a');
      expect(handle).toMatchObject({ name: 'a', id: 'id-a', status: 'running' });
      expect(handle.stopResult).toBeUndefined();
      const waiting = handle.waitUntilStopped();
      await end(child, 'killed');
      expect(await waiting).toMatchObject({ status: 'crashed', reason: 'host_exit', name: 'a' });
      expect((await handle.refresh()).status).toBe('crashed');
      expect(await handle.stop()).toMatchObject({ reason: 'host_exit' });
      await handle.remove();
      expect((await rejection(handle.refresh())).code).toBe('ERR_SANDBOX_NOT_FOUND');
      expect(await readdir(sandboxes())).toEqual([]);
    }),
  );

  test(
    'a sandbox that another process ended is stopped',
    withStorage(async () => {
      await end(await hold('a'), 'stopped');
      const handle = await Sandbox.get('a');
      expect(handle).toMatchObject({ status: 'stopped', stopResult: { reason: 'requested' } });
      expect(handle.updatedAt.getTime()).toBeGreaterThanOrEqual(handle.createdAt.getTime() - 1000);
    }),
  );

  test(
    'calls that need the process of a sandbox say which it is',
    withStorage(async () => {
      const child = await hold('a');
      const handle = await Sandbox.get('a');
      const calls = [
        () => handle.stop(),
        () => handle.kill(),
        () => handle.pause(),
        () => handle.resume(),
        () => handle.requestStop(),
        () => handle.requestKill(),
        () => handle.requestDrain(),
        () => handle.metrics(),
        () => handle.connect(),
        () => Sandbox.create({ name: 'a', replace: true, memoryMib: 64 }),
      ];
      for (const call of calls) {
        expect(await rejection(call())).toMatchObject({
          code: 'ERR_SANDBOX_NOT_OWNER',
          context: { name: 'a', pid: child.pid },
          message: expect.stringContaining(`process ${child.pid}`),
        });
      }
      const needEnd = [() => handle.remove(), () => handle.start(), () => Sandbox.remove('a')];
      for (const call of needEnd) {
        expect(await rejection(call())).toMatchObject({
          code: 'ERR_SANDBOX_STILL_RUNNING',
          context: { name: 'a', pid: child.pid },
        });
      }
      expect((await rejection(Sandbox.create({ name: 'a' }))).code).toBe('ERR_SANDBOX_EXISTS');
    }),
  );

  test(
    'an ephemeral sandbox is gone with its process',
    withStorage(async () => {
      const child = await hold('a', true);
      expect((await Sandbox.get('a')).ephemeral).toBe(true);
      await end(child, 'killed');
      expect((await rejection(Sandbox.get('a'))).code).toBe('ERR_SANDBOX_NOT_FOUND');
      expect(await Sandbox.list()).toEqual({ sandboxes: [] });
      expect((await rejection(Sandbox.start('a'))).code).toBe('ERR_SANDBOX_NOT_FOUND');
      expect(await readdir(sandboxes())).toEqual([]);
    }),
  );

  test(
    'lists are newest first, in pages that a change does not shift, by labels',
    withStorage(async () => {
      const names = ['b', 'a', 'D', 'c', 'e.x_y-z'];
      for (const name of names) await plant(name, { team: name === 'D' ? 'x' : 'y', all: '' });
      const newest = [...names].reverse();
      const all = await Sandbox.list();
      expect(all.sandboxes.map(({ name }) => name)).toEqual(newest);
      expect(all.nextCursor).toBeUndefined();

      const first = await Sandbox.list({ limit: 2 });
      expect(first.sandboxes.map(({ name }) => name)).toEqual(newest.slice(0, 2));
      await plant('newer');
      await Sandbox.remove(newest[1] ?? '');
      const cursor = first.nextCursor;
      const second = await Sandbox.list({ limit: 2, cursor });
      expect(second.sandboxes.map(({ name }) => name)).toEqual(newest.slice(2, 4));
      const third = await Sandbox.list({ limit: 2, cursor: second.nextCursor });
      expect(third.sandboxes.map(({ name }) => name)).toEqual(newest.slice(4));
      expect(third.nextCursor).toBeUndefined();

      const labelled = await Sandbox.list({ labels: { team: 'y', all: '' } });
      expect(labelled.sandboxes.map(({ name }) => name)).toEqual(['e.x_y-z', 'a', 'b']);
      expect(labelled.sandboxes[0]).toMatchObject({
        labels: { team: 'y', all: '' },
        config: { memoryMib: 64, name: 'e.x_y-z' },
      });
      expect((await Sandbox.list({ labels: { team: 'z' } })).sandboxes).toEqual([]);
    }),
  );
});

test.each(['', '{', 'null', '{"version":2}', '{"version":1,"name":"other"}'])(
  'a record that is %j is left out of lists, and keeps its name',
  async (text) => {
    await plant('good');
    await plant('bad');
    await writeFile(join(sandboxes(), 'bad/config.json'), text);
    expect((await Sandbox.list()).sandboxes.map(({ name }) => name)).toEqual(['good']);
    expect((await rejection(Sandbox.get('bad'))).code).toBe('ERR_STATE_CORRUPT');
    expect((await rejection(Sandbox.create({ name: 'bad' }))).code).toBe('ERR_SANDBOX_EXISTS');
    await Sandbox.remove('bad');
    expect((await rejection(Sandbox.get('bad'))).code).toBe('ERR_SANDBOX_NOT_FOUND');
  },
);

test('names and options from outside are checked', async () => {
  for (const name of ['', '..', '../x', 'a/b', '.a', 'a'.repeat(129), 7]) {
    for (const call of [Sandbox.get, Sandbox.start, Sandbox.remove]) {
      const error = await rejection(call(name as string));
      expect(error.code).toBe('ERR_INVALID_CONFIG');
    }
  }
  const lists = [{ limit: 0 }, { limit: 101 }, { cursor: 'x' }, { cursor: 'W10' }, { label: {} }];
  for (const options of [...lists, { labels: { 'sandbox.x': '' } }]) {
    const error = await rejection(Sandbox.list(options as object));
    expect([options, error.code]).toEqual([options, 'ERR_INVALID_CONFIG']);
  }
  expect((await rejection(Sandbox.start('a', { cpus: 1 } as object))).code).toBe(
    'ERR_INVALID_CONFIG',
  );
});

test('what does not exist is not found', async () => {
  for (const call of [Sandbox.get, Sandbox.start, Sandbox.remove]) {
    expect(await rejection(call('None'))).toMatchObject({
      code: 'ERR_SANDBOX_NOT_FOUND',
      context: { name: 'None' },
    });
  }
  expect(await Sandbox.list()).toEqual({ sandboxes: [] });
  expect(await observe('None')).toBeUndefined();
});

test('a sandbox without its disk says so', async () => {
  await plant('a');
  const error = await rejection(Sandbox.start('a'));
  expect(error.code).toBe('ERR_STATE_DIR');
  expect(error.message).toContain('upper.ext4');
  expect((await Sandbox.get('a')).status).toBe('stopped');
});
