import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { SandboxError } from '../../lib/errors.js';
import { Sandbox, type SandboxHandle, type SandboxOptions } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';
import { countable } from '../helpers/resources.js';

const home = useHome();
const NAME = 'Kept.one';
const options: SandboxOptions = small({
  name: NAME,
  labels: { team: 'x' },
  env: { A: 'from the creation' },
  rootDiskMib: 100,
});
const GRACE = { timeoutMs: 120_000 };

async function record(name: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(join(home, 'sandboxes', NAME, `${name}.json`), 'utf8'));
}

// One sandbox goes through its life: the tests build on each other.
describeGuest('a sandbox with a name', () => {
  let sandbox: Sandbox;
  let handle: SandboxHandle;
  let before: ReturnType<typeof countable>;

  beforeAll(async () => {
    const first = await Sandbox.create(small());
    await first.exec('true');
    await first.close();
    before = countable();
    sandbox = await Sandbox.create(options);
  }, 2 * BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await sandbox?.kill();
  });

  test('is found by its name and its labels', async () => {
    handle = await Sandbox.get(NAME);
    expect(handle).toMatchObject({
      name: NAME,
      id: sandbox.id,
      status: 'running',
      ephemeral: false,
      labels: { team: 'x' },
      config: { memoryMib: 128, rootDiskMib: 100 },
    });
    expect(Date.now() - handle.createdAt.getTime()).toBeLessThan(BOOT_TIMEOUT_MS);
    expect((await Sandbox.list({ labels: { team: 'x' } })).sandboxes).toHaveLength(1);
    expect((await Sandbox.list({ labels: { team: 'y' } })).sandboxes).toHaveLength(0);
    // Written while the caller goes on already.
    await vi.waitFor(async () =>
      expect(await record('state')).toMatchObject({ status: 'running', pid: process.pid }),
    );
    expect(Object.keys(await Sandbox.allMetrics())).toEqual([NAME]);
    expect((await handle.metrics()).cpu.cpus).toBe(1);
  });

  test('has its name and is not removed while it runs', async () => {
    expect((await rejection(Sandbox.create(options))).code).toBe('ERR_SANDBOX_EXISTS');
    expect((await rejection(Sandbox.remove(NAME))).code).toBe('ERR_SANDBOX_STILL_RUNNING');
    expect((await rejection(handle.start())).code).toBe('ERR_SANDBOX_STILL_RUNNING');
  });

  test('can be connected to by others, whose end is not its end', async () => {
    await using other = await handle.connect();
    expect(other.ownsLifecycle).toBe(false);
    expect(sandbox.ownsLifecycle).toBe(true);
    const { stdout } = await other.shell('echo precious > /kept; echo $A');
    expect(stdout).toBe('from the creation\n');
    await other.close();
    expect(sandbox.status).toBe('running');
  });

  test('does nothing while it is paused', async () => {
    const counting = sandbox.shell('while :; do echo; sleep 0.05; done');
    let lines = 0;
    counting.stdout.on('data', (chunk: Buffer) => {
      lines += chunk.length;
    });
    await expect.poll(() => lines, { timeout: 60_000 }).toBeGreaterThan(1);
    await sandbox.pause();
    await sandbox.pause();
    expect(sandbox.status).toBe('paused');
    expect((await handle.refresh()).status).toBe('paused');
    await expect.poll(async () => (await record('state')).status).toBe('paused');
    const error = await rejection(sandbox.exec('true'));
    expect(error).toMatchObject({ code: 'ERR_SANDBOX_NOT_RUNNING', context: { status: 'paused' } });
    expect(error.message).toContain('resume');
    expect((await sandbox.metrics()).processes.running).toBe(1);
    expect(await Sandbox.allMetrics()).toEqual({});
    await sleep(100);
    const paused = lines;
    await sleep(500);
    expect(lines).toBe(paused);
    await handle.resume();
    await sandbox.resume();
    expect(sandbox.status).toBe('running');
    await expect.poll(() => lines, { timeout: 60_000 }).toBeGreaterThan(paused);
    await counting.kill('SIGKILL');
    await counting;
  });

  test('is stopped while it is paused, and stays on record', async () => {
    await sandbox.pause();
    const stopping = sandbox.stop(GRACE);
    expect(sandbox.status).toBe('draining');
    expect((await rejection(sandbox.exec('true'))).code).toBe('ERR_SANDBOX_DRAINING');
    const result = await stopping;
    expect(result).toMatchObject({ name: NAME, status: 'stopped', reason: 'requested' });
    expect(await sandbox.stop()).toEqual(result);
    expect((await handle.refresh()).status).toBe('stopped');
    expect(handle.stopResult).toEqual(result);
    expect(await handle.stop()).toEqual(result);
    expect(await handle.waitUntilStopped()).toEqual(result);
    expect(await record('state')).toMatchObject({ status: 'stopped' });
    expect(await readdir(join(home, 'sandboxes'))).toEqual([NAME]);
    await expect.poll(countable, { timeout: 5000 }).toEqual(before);
    const late = [() => sandbox.exec('true'), () => handle.connect(), () => handle.requestDrain()];
    for (const call of late) {
      expect((await rejection(call())).code).toBe('ERR_SANDBOX_NOT_RUNNING');
    }
  });

  test(
    'that does not boot again in time is crashed, and can be started once more',
    async () => {
      const error = await rejection<SandboxError>(Sandbox.start(NAME, { bootTimeoutMs: 5 }));
      expect(error).toMatchObject({ code: 'ERR_BOOT_TIMEOUT', stage: 'agent' });
      expect(await handle.refresh()).toMatchObject({
        status: 'crashed',
        stopResult: { reason: 'boot_failed' },
      });
      await expect.poll(countable, { timeout: 5000 }).toEqual(before);

      sandbox = await Sandbox.start(NAME, { bootTimeoutMs: BOOT_TIMEOUT_MS });
      expect(sandbox).toMatchObject({ id: handle.id, name: NAME, status: 'running' });
      const { stdout } = await sandbox.shell('cat /kept; echo $A; hostname');
      expect(stdout).toBe(`precious\nfrom the creation\n${NAME}\n`);
      const created = handle.createdAt;
      expect((await handle.refresh()).createdAt).toEqual(created);
      expect(handle.stopResult).toBeUndefined();
    },
    BOOT_TIMEOUT_MS,
  );

  test('drains: what runs may finish, and nothing else begins', async () => {
    const running = sandbox.shell('sleep 2; echo finished');
    await running.pid;
    await sandbox.requestDrain();
    await sandbox.requestDrain();
    expect(sandbox.status).toBe('draining');
    expect(Object.keys(await Sandbox.allMetrics())).toEqual([NAME]);
    const refused = [() => sandbox.exec('true'), () => sandbox.pause(), () => sandbox.connect(1)];
    for (const call of refused) {
      expect((await rejection(call())).code).toBe('ERR_SANDBOX_DRAINING');
    }
    expect((await running).stdout).toBe('finished\n');
    const result = await handle.waitUntilStopped();
    expect(result).toMatchObject({ status: 'stopped', reason: 'drained' });
  });

  test(
    'is replaced, and the new one is stopped when it is idle, but not before',
    async () => {
      sandbox = await Sandbox.create({ ...options, replace: true, idleTimeoutMs: 1500 });
      expect(sandbox.id).not.toBe(handle.id);
      expect((await rejection(handle.refresh())).code).toBe('ERR_SANDBOX_NOT_FOUND');
      const { stdout } = await sandbox.shell('sleep 4; ls /kept 2>&1');
      expect(stdout).toContain('No such file');
      const idleSince = performance.now();
      expect(await sandbox.waitUntilStopped()).toMatchObject({
        status: 'stopped',
        reason: 'idle_timeout',
      });
      expect(performance.now() - idleSince).toBeGreaterThan(1400);
    },
    BOOT_TIMEOUT_MS,
  );

  test(
    'ends at its longest duration, whatever runs; and one that runs is replaced, too',
    async () => {
      sandbox = await Sandbox.create({ ...options, replace: true });
      const old = sandbox;
      sandbox = await Sandbox.create({
        ...options,
        replace: { timeoutMs: 0 },
        maxDurationMs: 1500,
      });
      expect(await old.waitUntilStopped()).toMatchObject({ reason: 'killed' });
      // Its processes are ended as by a stop.
      expect((await sandbox.exec('sleep', ['1000'])).signal).toBe('SIGTERM');
      expect(await sandbox.waitUntilStopped()).toMatchObject({ reason: 'max_duration' });
    },
    2 * BOOT_TIMEOUT_MS,
  );

  test('is removed for good', async () => {
    await Sandbox.remove(NAME);
    expect((await rejection(Sandbox.get(NAME))).code).toBe('ERR_SANDBOX_NOT_FOUND');
    expect(await readdir(join(home, 'sandboxes'))).toEqual([]);
    await expect.poll(countable, { timeout: 5000 }).toEqual(before);
  });
});
