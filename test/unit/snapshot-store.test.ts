import { existsSync } from 'node:fs';
import {
  appendFile,
  mkdir,
  open,
  readdir,
  readFile,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Claim, snapshotsDirectory, sweepSnapshots } from '../../lib/state/snapshots/claims.js';
import { SnapshotDraft, type SnapshotFacts } from '../../lib/state/snapshots/draft.js';
import {
  openSnapshot,
  readSnapshot,
  readSnapshots,
  removeSnapshot,
  verifySnapshot,
} from '../../lib/state/snapshots/store.js';
import { useFreshHome } from '../helpers/home.js';
import { rejection } from '../helpers/rejection.js';

useFreshHome();

const MIB = 1024 * 1024;
const FACTS: SnapshotFacts = {
  kind: 'memory',
  createdAt: 1_700_000_000_000,
  source: 'origin',
  description: 'for tests',
  labels: { team: 'a' },
  options: { memoryMib: 128, env: { A: 'b' } },
  base: { bytes: 4096, sha256: 'a'.repeat(64) },
  grow: false,
  guest: { kernelRelease: '6.1.0', agentVersion: '1.2.3' },
};
const MEMORY = 'machine/memory-0123456789abcdef';

async function fill(draft: SnapshotDraft, content: string): Promise<void> {
  await mkdir(draft.machine);
  await writeFile(join(draft.machine, 'state'), `state ${content}`);
  const memory = await open(draft.pathOf(MEMORY), 'wx');
  await memory.truncate(64 * MIB);
  await memory.write(`memory ${content}`, 20 * MIB + 5);
  await memory.close();
  await writeFile(draft.disk, `disk ${content}`);
}

async function make(name: string, content: string, replace = false): Promise<void> {
  const draft = await SnapshotDraft.begin(name, { replace });
  await fill(draft, content);
  await draft.commit(FACTS, await draft.describe());
}

const diskOf = async (name: string): Promise<string> =>
  readFile(join((await readSnapshot(name)).directory, 'upper.ext4'), 'utf8');

const entries = async (): Promise<string[]> => (await readdir(snapshotsDirectory())).sort();

const codeOf = async (promise: Promise<unknown>): Promise<string> =>
  ((await rejection(promise)) as { code: string }).code;

test('a snapshot is there when it is complete, and gone when it is removed', async () => {
  expect(await readSnapshots()).toEqual([]);
  expect(await codeOf(readSnapshot('one'))).toBe('ERR_SNAPSHOT_NOT_FOUND');
  const draft = await SnapshotDraft.begin('one', { replace: false });
  await fill(draft, 'first');
  expect(await codeOf(readSnapshot('one'))).toBe('ERR_SNAPSHOT_NOT_FOUND');
  expect(await codeOf(removeSnapshot('one'))).toBe('ERR_SNAPSHOT_BUSY');
  await draft.commit(FACTS, await draft.describe());
  const { manifest } = await readSnapshot('one');
  expect(manifest).toMatchObject(FACTS);
  expect(manifest.files.map(({ path, bytes }) => [path, bytes])).toEqual([
    ['upper.ext4', 10],
    [MEMORY, 64 * MIB],
    ['machine/state', 11],
  ]);
  // Of 64 MiB of memory only what is not zero was read.
  expect(manifest.files[1]?.storedBytes).toBe(8 + 64 * 1024);
  await verifySnapshot('one');
  expect(await entries()).toEqual(['one']);
  await removeSnapshot('one');
  expect(await codeOf(removeSnapshot('one'))).toBe('ERR_SNAPSHOT_NOT_FOUND');
  expect(await entries()).toEqual([]);
});

test('a name is taken until it is to be replaced, by one writer at a time', async () => {
  await make('one', 'first');
  expect(await codeOf(make('one', 'second'))).toBe('ERR_SNAPSHOT_EXISTS');
  expect(await diskOf('one')).toBe('disk first');
  const [a, b] = await Promise.allSettled([make('one', 'a', true), make('one', 'b', true)]);
  const won = [a, b].filter(({ status }) => status === 'fulfilled');
  expect(won).toHaveLength(1);
  const lost = [a, b].find(({ status }) => status === 'rejected') as PromiseRejectedResult;
  expect(lost.reason.code).toBe('ERR_SNAPSHOT_BUSY');
  expect(await diskOf('one')).toBe(a.status === 'fulfilled' ? 'disk a' : 'disk b');
  // Of the one before nothing is left.
  expect(await readdir(join(snapshotsDirectory(), 'one'))).toHaveLength(2);
  expect(await entries()).toEqual(['one']);
});

test('a snapshot that is abandoned leaves the one before and nothing else', async () => {
  await make('one', 'first');
  const draft = await SnapshotDraft.begin('one', { replace: true });
  await fill(draft, 'second');
  await draft.abandon();
  expect(await diskOf('one')).toBe('disk first');
  expect(await entries()).toEqual(['one']);
});

test('what is open stays, whatever becomes of the snapshot', async () => {
  await make('one', 'first');
  const opened = await openSnapshot('one');
  await make('one', 'second', true);
  await removeSnapshot('one');
  expect(await readFile(opened.disk, 'utf8')).toBe('disk first');
  expect(existsSync(join(opened.machine, 'state'))).toBe(true);
  await opened.release();
  expect(await entries()).toEqual([]);
});

test('opens find a whole snapshot while it is replaced again and again', async () => {
  await make('one', 'first');
  let over = false;
  const writer = (async () => {
    for (let round = 0; round < 20; round += 1) await make('one', `${round}`, true);
    over = true;
  })();
  let opens = 0;
  while (!over) {
    const opened = await openSnapshot('one');
    const [disk, state] = await Promise.all([
      readFile(opened.disk, 'utf8'),
      readFile(join(opened.machine, 'state'), 'utf8'),
    ]);
    expect(disk.replace('disk', 'state')).toBe(state);
    await opened.release();
    opens += 1;
  }
  await writer;
  expect(opens).toBeGreaterThan(3);
  expect(await entries()).toEqual(['one']);
});

describe('damage', () => {
  async function damaged(change: (directory: string) => Promise<void>) {
    await make('one', 'first');
    await change((await readSnapshot('one')).directory);
    return (await rejection(verifySnapshot('one'))) as { code: string; context: object };
  }

  test.each([
    ['machine/state', (path: string) => appendFile(path, 'x')],
    [MEMORY, (path: string) => truncate(path, MIB)],
    [
      MEMORY,
      async (path: string) => {
        const file = await open(path, 'r+');
        await file.write('x', 40 * MIB);
        await file.close();
      },
    ],
    ['upper.ext4', (path: string) => rm(path)],
    ['upper.ext4', (path: string) => writeFile(path, 'disk fIrst')],
  ])('of %s is found, and the file named (%#)', async (file, change) => {
    const error = await damaged((directory) => change(join(directory, file)));
    expect(error).toMatchObject({ code: 'ERR_SNAPSHOT_INVALID', context: { name: 'one', file } });
    await removeSnapshot('one');
  });

  test('of the memory that makes it shorter keeps it from being used', async () => {
    await make('one', 'first');
    await truncate(join((await readSnapshot('one')).directory, MEMORY), 63 * MIB);
    const error = await rejection(openSnapshot('one'));
    expect(error).toMatchObject({ code: 'ERR_SNAPSHOT_INVALID', context: { file: MEMORY } });
    expect(await entries()).toEqual(['one']);
  });

  test.each([
    ['cut off', (text: string) => text.slice(0, -10), 'ERR_SNAPSHOT_INVALID'],
    ['empty', () => '', 'ERR_SNAPSHOT_INVALID'],
    ['null', () => 'null', 'ERR_SNAPSHOT_INVALID'],
    [
      'of another version',
      (text: string) => text.replace('"version":1', '"version":2'),
      'ERR_SNAPSHOT_VERSION',
    ],
    [
      'with a path that leads out',
      (text: string) => text.replace('machine/state', '../../../state'),
      'ERR_SNAPSHOT_INVALID',
    ],
    [
      'with a directory that leads out',
      (text: string) => text.replace(/"generation":"[^"]+"/, '"generation":"../two"'),
      'ERR_SNAPSHOT_INVALID',
    ],
    ['huge', (text: string) => text.padEnd(5 * MIB), 'ERR_SNAPSHOT_INVALID'],
  ])('of a manifest that is %s is told', async (_what, change, code) => {
    await make('one', 'first');
    await make('two', 'second');
    const path = join(snapshotsDirectory(), 'one/snapshot.json');
    await writeFile(path, change(await readFile(path, 'utf8')));
    expect(await codeOf(readSnapshot('one'))).toBe(code);
    expect((await readSnapshots()).map(({ name }) => name)).toEqual(['two']);
    expect(await codeOf(make('one', 'third'))).toBe('ERR_SNAPSHOT_EXISTS');
    await make('one', 'third', true);
    expect(await diskOf('one')).toBe('disk third');
  });
});

test('what the dead left is swept, what the living hold is not', async () => {
  await make('one', 'first');
  const root = snapshotsDirectory();
  // Of a writer that was killed while it gathered, and of one that was killed while it removed.
  await mkdir(join(root, '.new-two'));
  await writeFile(join(root, '.lock-two'), '');
  await mkdir(join(root, '.use-abc'));
  await writeFile(join(root, '.lock-abc'), '');
  await mkdir(join(root, '.old-abc'));
  // Of one that was killed before it wrote the manifest.
  await mkdir(join(root, 'three/generation'), { recursive: true });
  const draft = await SnapshotDraft.begin('four', { replace: false });
  const { claim } = await Claim.scratch();
  await sweepSnapshots();
  expect(await entries()).toEqual(
    ['.lock-four', '.new-four', `.lock-${claim.id}`, `.use-${claim.id}`, 'one', 'three'].sort(),
  );
  expect(await codeOf(readSnapshot('three'))).toBe('ERR_SNAPSHOT_NOT_FOUND');
  await make('three', 'third');
  expect(await readdir(join(root, 'three'))).toHaveLength(2);
  await claim.release();
  await draft.abandon();
  expect(await entries()).toEqual(['one', 'three']);
});

test('a place that cannot be written is told', async () => {
  await mkdir(join(snapshotsDirectory(), '..'), { recursive: true });
  await writeFile(snapshotsDirectory(), 'in the way');
  expect(await rejection(make('one', 'first'))).toMatchObject({
    code: 'ERR_SNAPSHOT_WRITE',
    context: { path: snapshotsDirectory() },
  });
  await rm(snapshotsDirectory());
  await make('one', 'first');
});
