import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, stat, utimes, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { homeDirectory } from '../../lib/state/home.js';
import { currentOwner, isAlive } from '../../lib/state/owner.js';
import { SandboxDir, sweepDeadSandboxes } from '../../lib/state/sandbox-dir.js';
import { useDirectory } from '../helpers/directory.js';
import { rejection } from '../helpers/rejection.js';

const directory = useDirectory();
const inherited = process.env.EMBERVM_HOME;
let sandboxes = '';

beforeEach(async () => {
  const home = join(await directory(), 'home');
  process.env.EMBERVM_HOME = home;
  sandboxes = join(home, 'sandboxes');
});

afterEach(() => {
  if (inherited === undefined) delete process.env.EMBERVM_HOME;
  else process.env.EMBERVM_HOME = inherited;
});

/** The lock of a process that has ended. */
async function deadLock(): Promise<object> {
  const child = spawn('sleep', ['60']);
  await once(child, 'spawn');
  const stat = await readFile(`/proc/${child.pid}/stat`, 'latin1');
  const startTime = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  child.kill('SIGKILL');
  await once(child, 'exit');
  const { bootId } = await currentOwner();
  return { pid: child.pid, startTime, bootId, token: '00000000-0000-0000-0000-000000000001' };
}

async function plant(name: string, lock: object | string): Promise<void> {
  await mkdir(join(sandboxes, name), { recursive: true });
  const text = typeof lock === 'string' ? lock : JSON.stringify(lock);
  await writeFile(join(sandboxes, name, 'lock'), text);
  await writeFile(join(sandboxes, name, 'upper.ext4'), 'left over');
}

test('the home is $EMBERVM_HOME, else ~/.embervm', () => {
  expect(homeDirectory()).toBe(process.env.EMBERVM_HOME);
  process.env.EMBERVM_HOME = '';
  expect(homeDirectory()).toBe(join(homedir(), '.embervm'));
});

test('a claim makes a private directory, and removing it leaves nothing', async () => {
  const claim = await SandboxDir.claim('a');
  expect(claim.path).toBe(join(sandboxes, 'a'));
  expect((await stat(claim.path)).mode & 0o777).toBe(0o700);
  expect((await stat(sandboxes)).mode & 0o777).toBe(0o700);
  await writeFile(join(claim.path, 'upper.ext4'), 'x');
  await Promise.all([claim.remove(), claim.remove()]);
  expect(await readdir(sandboxes)).toEqual([]);
});

test('a name is taken once, also by one process, and free again afterwards', async () => {
  const claim = await SandboxDir.claim('a');
  const error = await rejection(SandboxDir.claim('a'));
  expect(error).toMatchObject({
    code: 'ERR_SANDBOX_EXISTS',
    context: { name: 'a', pid: process.pid },
  });
  expect(error.message).toContain('this process');
  await claim.remove();
  await (await SandboxDir.claim('a')).remove();
});

test('of many claims at once one wins, and nothing is left over', async () => {
  const results = await Promise.allSettled(Array.from({ length: 20 }, () => SandboxDir.claim('a')));
  expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
  expect(await readdir(sandboxes)).toEqual(['a']);
});

test('the directory of a dead process is replaced', async () => {
  await plant('a', await deadLock());
  const claim = await SandboxDir.claim('a');
  expect(await readdir(claim.path)).toEqual(['lock']);
  expect(await readdir(sandboxes)).toEqual(['a']);
});

test('of many claims for a dead name one wins', async () => {
  await plant('a', await deadLock());
  const results = await Promise.allSettled(Array.from({ length: 20 }, () => SandboxDir.claim('a')));
  expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
  expect(await readdir(sandboxes)).toEqual(['a']);
});

test.each(['', '{', '{"pid":1}', 'null', '{"pid":1,"startTime":"1","bootId":"x","token":"../.."}'])(
  'a directory whose lock is %j is replaced',
  async (text) => {
    await plant('a', text);
    await (await SandboxDir.claim('a')).remove();
    expect(await readdir(sandboxes)).toEqual([]);
  },
);

test('a process is told apart from a later one of its number, and from one before the reboot', async () => {
  const owner = await currentOwner();
  expect(await isAlive(owner)).toBe(true);
  expect(await isAlive({ ...owner, startTime: '1' })).toBe(false);
  expect(await isAlive({ ...owner, bootId: 'another' })).toBe(false);
});

test('the sweep removes what dead processes left, and nothing else', async () => {
  const claim = await SandboxDir.claim('alive');
  await plant('dead', await deadLock());
  await plant('.incoming-dead', await deadLock());
  await mkdir(join(sandboxes, '.outgoing-fresh'));
  await mkdir(join(sandboxes, '.outgoing-old'));
  await utimes(join(sandboxes, '.outgoing-old'), 1, 1);
  await mkdir(join(sandboxes, 'without-lock'));
  await sweepDeadSandboxes();
  expect((await readdir(sandboxes)).sort()).toEqual(['.outgoing-fresh', 'alive', 'without-lock']);
  expect(existsSync(join(claim.path, 'lock'))).toBe(true);
});

test('a home that cannot be written is named with the cure', async () => {
  process.env.EMBERVM_HOME = '/proc/no-such-place';
  const error = await rejection(SandboxDir.claim('a'));
  expect(error.code).toBe('ERR_STATE_DIR');
  expect(error.message).toContain('/proc/no-such-place');
  expect(error.message).toContain('EMBERVM_HOME');
});
