import { existsSync } from 'node:fs';
import { mkdir, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { homeDirectory } from '../../lib/state/home.js';
import { FileLock, isLocked } from '../../lib/state/lock.js';
import { newConfig } from '../../lib/state/records.js';
import { isHeld, SandboxDir, sweepDeadSandboxes } from '../../lib/state/sandbox-dir.js';
import { useFreshHome } from '../helpers/home.js';
import { rejection } from '../helpers/rejection.js';

const sandboxes = useFreshHome();

/** A sandbox that has ended. */
async function ended(name: string, ephemeral = false): Promise<void> {
  const claim = await SandboxDir.claim(name);
  const config = { id: name, name, createdAt: 1, ephemeral, labels: {}, options: {} };
  await claim.records.saveConfig(newConfig(config));
  if (!ephemeral) await claim.keep();
  await writeFile(join(claim.path, 'upper.ext4'), 'precious');
  await claim.release();
}

test('the home is $EMBERVM_HOME, else ~/.embervm', () => {
  expect(homeDirectory()).toBe(process.env.EMBERVM_HOME);
  process.env.EMBERVM_HOME = '';
  expect(homeDirectory()).toBe(join(homedir(), '.embervm'));
});

test('a claim makes a private directory, and removing it leaves nothing', async () => {
  const claim = await SandboxDir.claim('a');
  expect(claim.path).toBe(join(sandboxes(), 'a'));
  expect((await stat(claim.path)).mode & 0o777).toBe(0o700);
  expect((await stat(join(claim.path, 'lock'))).mode & 0o777).toBe(0o600);
  expect((await stat(sandboxes())).mode & 0o777).toBe(0o700);
  await writeFile(join(claim.path, 'upper.ext4'), 'x');
  await Promise.all([claim.remove(), claim.remove()]);
  expect(await readdir(sandboxes())).toEqual([]);
});

test('a name is taken once, also by one process, and free again afterwards', async () => {
  const claim = await SandboxDir.claim('a');
  expect(await isHeld('a')).toBe(true);
  const error = await rejection(SandboxDir.claim('a'));
  expect(error).toMatchObject({ code: 'ERR_SANDBOX_EXISTS', context: { name: 'a' } });
  await claim.remove();
  expect(await isHeld('a')).toBe(false);
  await (await SandboxDir.claim('a')).remove();
});

test('of many claims at once one wins, and nothing is left over', async () => {
  const results = await Promise.allSettled(Array.from({ length: 20 }, () => SandboxDir.claim('a')));
  expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
  expect(await readdir(sandboxes())).toEqual(['a']);
});

test('claims and removals by many at once leave one or none, and nothing else', async () => {
  const rounds = Array.from({ length: 20 }, async () => {
    for (let count = 0; count < 10; count += 1) {
      const claim = await SandboxDir.claim('a').catch(() => undefined);
      if (claim === undefined) continue;
      // Whoever holds it is alone in it.
      await writeFile(join(claim.path, 'mine'), '', { flag: 'wx' });
      await claim.remove();
    }
  });
  await Promise.all(rounds);
  expect(await readdir(sandboxes())).toEqual([]);
});

test('a sandbox that has ended keeps its name until it is removed', async () => {
  await ended('a');
  const error = await rejection(SandboxDir.claim('a'));
  expect(error.code).toBe('ERR_SANDBOX_EXISTS');
  expect(error.message).toContain('has ended');
  const again = await SandboxDir.open('a');
  expect((await rejection(SandboxDir.open('a'))).code).toBe('ERR_SANDBOX_STILL_RUNNING');
  expect(existsSync(join(again.path, 'upper.ext4'))).toBe(true);
  await again.remove();
  expect((await rejection(SandboxDir.open('a'))).code).toBe('ERR_SANDBOX_NOT_FOUND');
});

test('what nobody asked to keep makes way for a claim', async () => {
  await ended('a', true);
  const claim = await SandboxDir.claim('a');
  expect(await readdir(claim.path)).toEqual(['lock']);
  await claim.release();
  // A creation that died before there was a record.
  await writeFile(join(sandboxes(), 'a', 'upper.ext4'), 'half');
  await (await SandboxDir.claim('a')).remove();
});

test('what is on record in another storage does not make way', async () => {
  await ended('a');
  await rm(join(sandboxes(), 'a', 'config.json'));
  expect((await rejection(SandboxDir.claim('a'))).code).toBe('ERR_SANDBOX_EXISTS');
  await sweepDeadSandboxes();
  expect(await readdir(join(sandboxes(), 'a'))).toContain('upper.ext4');
});

test('a damaged record keeps its sandbox, and can be removed', async () => {
  await ended('a');
  await writeFile(join(sandboxes(), 'a', 'config.json'), '{"version":1,');
  expect((await rejection(SandboxDir.claim('a'))).code).toBe('ERR_SANDBOX_EXISTS');
  await (await SandboxDir.openAny('a')).remove();
  expect(await readdir(sandboxes())).toEqual([]);
});

test('the sweep removes what dead processes left, and nothing else', async () => {
  const claim = await SandboxDir.claim('alive');
  await ended('kept');
  await ended('dead', true);
  await (await SandboxDir.claim('without-record')).release();
  await mkdir(join(sandboxes(), '.outgoing-fresh'));
  await mkdir(join(sandboxes(), '.outgoing-old'));
  await utimes(join(sandboxes(), '.outgoing-old'), 1, 1);
  await mkdir(join(sandboxes(), 'foreign'));
  await sweepDeadSandboxes();
  expect((await readdir(sandboxes())).sort()).toEqual([
    '.outgoing-fresh',
    'alive',
    'foreign',
    'kept',
  ]);
  expect(existsSync(join(claim.path, 'lock'))).toBe(true);
  await claim.remove();
});

test('a home that cannot be written is named with the cure', async () => {
  process.env.EMBERVM_HOME = '/proc/no-such-place';
  const error = await rejection(SandboxDir.claim('a'));
  expect(error.code).toBe('ERR_STATE_DIR');
  expect(error.message).toContain('/proc/no-such-place');
  expect(error.message).toContain('EMBERVM_HOME');
});

test('a lock on a file that was replaced is not taken for the lock', async () => {
  await mkdir(sandboxes(), { recursive: true });
  const path = join(sandboxes(), 'lock');
  const first = await FileLock.tryAcquire(path);
  expect(await FileLock.tryAcquire(path)).toBeUndefined();
  expect(await isLocked(path)).toBe(true);
  await rm(path);
  expect(await isLocked(path)).toBe(false);
  const second = await FileLock.tryAcquire(path);
  expect(second).toBeDefined();
  await first?.release();
  expect(await isLocked(path)).toBe(true);
  await second?.release();
  expect(await isLocked(path)).toBe(false);
});
