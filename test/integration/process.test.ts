import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { packageRoot } from '../../lib/native/package-root.js';
import { describeGuest } from '../helpers/guest.js';
import { countable } from '../helpers/resources.js';
import { programs, writeKernel } from '../helpers/tiny-kernel.js';

const entryPath = join(packageRoot(), 'dist/machine/index.js');
const entry = pathToFileURL(entryPath).href;
const fixture = (name: string): string =>
  fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
let directory = '';
let kernel = '';

beforeAll(async () => {
  if (!existsSync(entryPath)) throw new Error(`${entryPath} is missing: run "npm run build"`);
  directory = await mkdtemp(join(tmpdir(), 'embervm-process-'));
  kernel = await writeKernel(join(directory, 'kernel'), programs.spin('up'));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

function startWorker(leave: boolean): Worker {
  return new Worker(fixture('worker.mjs'), { workerData: { entry, kernel, leave } });
}

describeGuest('worker threads', () => {
  test('have machines of their own, also several at once', async () => {
    const workers = [startWorker(false), startWorker(false), startWorker(false)];
    const exits = workers.map((worker) => once(worker, 'exit'));
    const messages = await Promise.all(workers.map((worker) => once(worker, 'message')));
    expect(messages).toEqual([['up'], ['up'], ['up']]);
    expect(await Promise.all(exits)).toEqual([[0], [0], [0]]);
  });

  test('that are terminated take their machines with them', async () => {
    const round = async (): Promise<void> => {
      const worker = startWorker(true);
      await once(worker, 'message');
      expect(countable().threads.length).toBeGreaterThan(0);
      await worker.terminate();
    };
    await round();
    await sleep(200);
    const before = countable();
    for (let count = 0; count < 5; count += 1) await round();
    await expect.poll(countable, { timeout: 5000 }).toEqual(before);
  });
});

interface End {
  code: number | null;
  signal: string | null;
  stderr: string;
}

async function runChild(way: string, act?: (child: ChildProcess) => void): Promise<End> {
  const child = spawn(process.execPath, [fixture('process.mjs'), entry, kernel, way], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (chunk) => {
    stderr += String(chunk);
  });
  const exited = once(child, 'exit');
  await once(child.stdout, 'data');
  act?.(child);
  const [code, signal] = (await exited) as [number | null, string | null];
  return { code, signal, stderr };
}

describeGuest('a process with a machine running', () => {
  test('ends by process.exit with its code', async () => {
    expect(await runChild('exit')).toEqual({ code: 7, signal: null, stderr: '' });
  });

  test('ends by an exception that nobody catches', async () => {
    const { code, stderr } = await runChild('throw');
    expect(code).toBe(1);
    expect(stderr).toContain('on purpose');
  });

  test('ends by a signal', async () => {
    expect(await runChild('stay', (child) => child.kill('SIGTERM'))).toMatchObject({
      signal: 'SIGTERM',
    });
  });

  test('ends by itself when the machine is unref’d, or closed', async () => {
    expect(await runChild('unref')).toEqual({ code: 0, signal: null, stderr: '' });
    expect(await runChild('close')).toEqual({ code: 0, signal: null, stderr: '' });
  });

  test.each(['stay', 'ref'])('does not end by itself otherwise (%s)', async (way) => {
    const end = await runChild(way, (child) => {
      setTimeout(() => child.kill('SIGKILL'), 1000);
    });
    expect(end.signal).toBe('SIGKILL');
  });
});
