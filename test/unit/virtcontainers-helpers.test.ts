/** Shims and proxies that are programs: each is a script that writes down how it was run. */
import { fork } from 'node:child_process';
import diagnostics from 'node:diagnostics_channel';
import { once } from 'node:events';
import { chmod, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { packageRoot } from '../../lib/native/package-root.js';
import { isAlive } from '../../lib/virtcontainers/helper-process.js';
import type { SandboxConfig } from '../../lib/virtcontainers/index.js';
import * as vc from '../../lib/virtcontainers/index.js';
import { shims } from '../../lib/virtcontainers/shims/shims.js';
import { useDirectory } from '../helpers/directory.js';
import { useFreshHome } from '../helpers/home.js';
import { rejection } from '../helpers/rejection.js';

const sandboxes = useFreshHome();
const directory = useDirectory();
const mock = (more: SandboxConfig): SandboxConfig => ({
  id: 'pod',
  hypervisorType: 'mock',
  ...more,
});

/** Ends when it is told to, or at once. */
async function script(end: 'waits' | 'ends'): Promise<{ path: string; log: string }> {
  const at = await directory();
  const path = join(at, 'helper');
  const log = join(at, 'log');
  const rest = end === 'waits' ? 'exec sleep 60' : 'exit 0';
  await writeFile(path, `#!/bin/sh\necho "$@" >> ${log}.new\nmv ${log}.new ${log}\n${rest}\n`);
  await chmod(path, 0o700);
  return { path, log };
}

async function written(path: string): Promise<string> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return (await readFile(path, 'utf8')).trim();
    } catch (error) {
      if (attempt === 500) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

async function gone(pid: number): Promise<void> {
  for (let attempt = 0; isAlive(pid); attempt += 1) {
    if (attempt === 500) throw new Error(`process ${pid} lives on`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

describe('a shim', () => {
  test.each([
    ['noopShim', 0],
    ['kataBuiltInShim', -1],
  ] as const)('%s is no process', async (shimType, pid) => {
    const sandbox = await vc.runSandbox(mock({ shimType, containers: [{ id: 'c' }] }));
    expect(sandbox.getContainer('c')?.getPid()).toBe(pid);
    expect((await sandbox.enterContainer('c', { args: ['a'] })).pid).toBe(pid);
  });

  test('kataShim runs with the address, the container and the token', async () => {
    const { path, log } = await script('ends');
    const containers = [{ id: 'c', cmd: { args: ['sh'], interactive: true, detach: true } }];
    const shimConfig = { path, debug: true, trace: true };
    await vc.createSandbox(mock({ shimType: 'kataShim', shimConfig, containers }));
    const url = `unix://${join(dirname(sandboxes()), 'virtcontainers/pod/agent.sock')}`;
    expect(await written(log)).toBe(
      `-agent ${url} -container c -exec-id c -terminal -log debug -trace`,
    );
  });

  test('ccShim has words of its own', async () => {
    const { path, log } = await script('ends');
    const containers = [{ id: 'c', cmd: { args: ['sh'], detach: true } }];
    await vc.createSandbox(mock({ shimType: 'ccShim', shimConfig: { path }, containers }));
    expect(await written(log)).toMatch(/^-c c -t c -u unix:\/\/.*agent\.sock$/);
  });

  test('that has ended is a container that has', async () => {
    const { path, log } = await script('waits');
    const containers = [{ id: 'c', cmd: { args: ['sh'], detach: true } }];
    const sandbox = await vc.runSandbox(
      mock({ shimType: 'kataShim', shimConfig: { path }, containers }),
    );
    await written(log);
    const pid = sandbox.getContainer('c')?.getPid() ?? 0;
    expect(isAlive(pid)).toBe(true);
    expect((await sandbox.status()).containersStatus).toMatchObject([{ pid, state: 'running' }]);
    process.kill(pid, 'SIGKILL');
    await gone(pid);
    expect((await sandbox.statusContainer('c')).state).toBe('stopped');
    // The next one has a new shim.
    await sandbox.startContainer('c');
    const next = sandbox.getContainer('c')?.getPid() ?? 0;
    expect(next).not.toBe(pid);
    await vc.crashMock('pod');
    await sandbox.stop();
    await gone(next);
  });

  test('that cannot be run fails the creation, and nothing is left', async () => {
    const config = mock({
      shimType: 'kataShim',
      shimConfig: { path: '/nonexistent/shim' },
      containers: [{ id: 'c' }],
    });
    expect(await rejection(vc.runSandbox(config))).toMatchObject({
      code: 'ERR_HELPER_FAILED',
      errno: 'ENOENT',
    });
    expect(await vc.listSandbox()).toEqual([]);
    const sandbox = await vc.createSandbox({ ...config, containers: [] });
    const failed = await rejection(sandbox.createContainer({ id: 'c' }));
    expect(failed.code).toBe('ERR_HELPER_FAILED');
    expect((await sandbox.status()).containersStatus).toEqual([]);
  });

  test('that cannot be run again fails the start, and the VM ends again', async () => {
    const { path } = await script('ends');
    const cmd = { args: ['a'], detach: true };
    const containers = ['a', 'b'].map((id) => ({ id, cmd }));
    const sandbox = await vc.createSandbox(
      mock({ shimType: 'ccShim', shimConfig: { path }, containers }),
    );
    await sandbox.stop();
    await rm(path);
    expect((await rejection(sandbox.start())).code).toBe('ERR_HELPER_FAILED');
    expect(await sandbox.status()).toMatchObject({
      state: 'stopped',
      containersStatus: [{ state: 'stopped' }, { state: 'stopped' }],
    });
    await sandbox.delete();
  });

  test.each(['url', 'container', 'token'])('needs its %s', async (missing) => {
    const params = { url: 'u', container: 'c', token: 't' };
    const rest = { terminal: false, detach: true, console: '' };
    const config = { path: '/bin/true', debug: false, trace: false };
    const started = shims.kataShim.start(config, { ...params, [missing]: '', ...rest });
    expect(await rejection(started)).toMatchObject({ context: { missing } });
  });
});

describe('a proxy', () => {
  test('kataProxy runs with both sockets until the sandbox stops', async () => {
    const { path, log } = await script('waits');
    const proxyConfig = { path, debug: true };
    const sandbox = await vc.createSandbox(mock({ proxyType: 'kataProxy', proxyConfig }));
    const at = join(dirname(sandboxes()), 'virtcontainers/pod');
    expect(await written(log)).toBe(
      `-listen-socket unix://${at}/proxy.sock -mux-socket ${at}/agent.sock -sandbox pod ` +
        `-log debug -agent-logs-socket unix://${at}/console.sock`,
    );
    const record = JSON.parse(await readFile(join(at, 'sandbox.json'), 'utf8')) as {
      proxy: { pid: number };
    };
    expect(isAlive(record.proxy.pid)).toBe(true);
    await sandbox.stop();
    await gone(record.proxy.pid);
  });

  test.each([
    ['noopProxy', 'noopProxyURL'],
    ['noProxy', /agent\.sock$/],
    ['kataBuiltInProxy', /agent\.sock$/],
  ] as const)('%s only gives an address', async (proxyType, url) => {
    const { path, log } = await script('ends');
    const containers = [{ id: 'c', cmd: { args: ['a'], detach: true } }];
    const shimConfig = { path };
    await vc.createSandbox(mock({ proxyType, shimType: 'ccShim', shimConfig, containers }));
    expect((await written(log)).split(' ').at(-1)).toMatch(url);
  });

  test('kataBuiltInProxy hands on the lines of the console', async () => {
    const at = join(dirname(sandboxes()), 'virtcontainers/pod');
    await mkdir(at, { recursive: true });
    const server = createServer((socket) => socket.end('one\ntwo\n')).listen(
      join(at, 'console.sock'),
    );
    await once(server, 'listening');
    const seen: unknown[] = [];
    const told = new Promise<void>((resolve) => {
      diagnostics.subscribe('embervm.console', (message) => {
        seen.push(message);
        if (seen.length === 2) resolve();
      });
    });
    const proxyType = 'kataBuiltInProxy';
    const sandbox = await vc.createSandbox(mock({ proxyType, proxyConfig: { debug: true } }));
    await told;
    expect(seen).toEqual([
      { sandbox: 'pod', line: 'one' },
      { sandbox: 'pod', line: 'two' },
    ]);
    await sandbox.delete();
    server.close();
    const nobody = vc.createSandbox(mock({ proxyType, proxyConfig: { debug: true } }));
    expect((await rejection(nobody)).code).toBe('ERR_HELPER_FAILED');
    expect(await vc.listSandbox()).toEqual([]);
  });
});

test('another process fetches a sandbox, and both see what the other does', async () => {
  const sandbox = await vc.runSandbox(mock({ containers: [{ id: 'c' }] }));
  const child = fork(join(packageRoot(), 'test/fixtures/virtcontainers.mjs'), ['pod'], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const [seen] = (await once(child, 'message')) as [unknown];
  expect(seen).toEqual({ state: 'running', containers: ['c'] });
  const [done] = (await once(child, 'message')) as [unknown];
  expect(done).toEqual({ state: 'paused', containers: ['c', 'theirs'] });
  // It holds the lock, and dies with it.
  const [held] = (await once(child, 'message')) as [unknown];
  expect(held).toBe('held');
  const waiting = sandbox.status();
  child.kill('SIGKILL');
  expect(await waiting).toMatchObject({
    state: 'paused',
    containersStatus: [
      { id: 'c', state: 'paused' },
      { id: 'theirs', state: 'ready' },
    ],
  });
  expect(sandbox.getAllContainers().map(({ id }) => id)).toEqual(['c', 'theirs']);
  await sandbox.delete();
});
