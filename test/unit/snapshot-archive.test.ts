import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';
import { beforeEach, describe, expect, test } from 'vitest';
import { Snapshot } from '../../lib/index.js';
import { snapshotsDirectory } from '../../lib/state/snapshots/claims.js';
import { SnapshotDraft, type SnapshotFacts } from '../../lib/state/snapshots/draft.js';
import { readSnapshot } from '../../lib/state/snapshots/store.js';
import { useDirectory } from '../helpers/directory.js';
import { useFreshHome } from '../helpers/home.js';
import { rejection } from '../helpers/rejection.js';

useFreshHome();
const directory = useDirectory();

const MIB = 1024 * 1024;
const BLOCK = 512;
const MEMORY = 'machine/memory-0123456789abcdef';
const FACTS: SnapshotFacts = {
  kind: 'memory',
  createdAt: 1_700_000_000_000,
  source: 'origin',
  description: 'for tests',
  labels: { team: 'a' },
  options: { memoryMib: 128, rootDiskMib: 64, env: { A: 'b' } },
  base: { bytes: 4096, sha256: 'a'.repeat(64) },
  grow: false,
  guest: { kernelRelease: '6.1.0', agentVersion: '1.2.3' },
};

async function sparse(path: string, bytes: number, pieces: [number, string][]): Promise<void> {
  const file = await open(path, 'wx');
  await file.truncate(bytes);
  for (const [at, text] of pieces) await file.write(text, at);
  await file.close();
}

async function make(name: string, facts: Partial<SnapshotFacts> = {}): Promise<void> {
  const draft = await SnapshotDraft.begin(name, { replace: false });
  await mkdir(draft.machine);
  await writeFile(join(draft.machine, 'state'), 'state');
  await sparse(draft.pathOf(MEMORY), 128 * MIB, [
    [5, 'first'],
    [20 * MIB + 5, 'memory'],
    [128 * MIB - 4, 'last'],
  ]);
  await sparse(draft.disk, 64 * MIB, [[1024, 'disk']]);
  await draft.commit({ ...FACTS, ...facts }, await draft.describe());
}

interface Member {
  name: string;
  content: Buffer;
  type?: string;
  size?: number;
}

function header({ name, content, type = '0', size = content.length }: Member): Buffer {
  const block = Buffer.alloc(BLOCK);
  block.write(name, 0);
  block.write('0000600\0', 100);
  block.write('0000000\0', 108);
  block.write('0000000\0', 116);
  block.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  block.write('00000000000\0', 136);
  block.write(type, 156);
  block.write('ustar\0', 257);
  block.fill(' ', 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return block;
}

const tarOf = (members: Member[]): Buffer =>
  Buffer.concat([
    ...members.flatMap((member) => [
      header(member),
      member.content,
      Buffer.alloc((BLOCK - (member.content.length % BLOCK)) % BLOCK),
    ]),
    Buffer.alloc(2 * BLOCK),
  ]);

function membersOf(archive: Buffer): Member[] {
  const members: Member[] = [];
  for (let at = 0; archive[at] !== 0; ) {
    const name = archive.toString('latin1', at, archive.indexOf(0, at));
    const size = Number.parseInt(archive.toString('latin1', at + 124, at + 135), 8);
    members.push({ name, content: archive.subarray(at + BLOCK, at + BLOCK + size) });
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
  }
  return members;
}

interface File {
  path: string;
  bytes: number;
  storedBytes: number;
  sha256: string;
}

type Files = [disk: File, memory: File, state: File];

interface Header {
  version: number;
  name: string;
  manifest: { options: Record<string, unknown>; files: File[] };
}

const SHA = 'b'.repeat(64);
const options =
  (more: object) =>
  (manifest: Header['manifest']): void => {
    Object.assign(manifest.options, more);
  };

/** Lies that are in order otherwise. */
function forge(members: Member[], change: (head: Header) => void): Member[] {
  const [first, ...rest] = members as [Member, ...Member[]];
  const { format, ...head } = JSON.parse(first.content.toString());
  change(head);
  const { name, manifest, version } = head;
  const sha256 = createHash('sha256').update(JSON.stringify({ name, manifest })).digest('hex');
  const text = JSON.stringify({ format, version, sha256, name, manifest });
  return [{ name: first.name, content: Buffer.from(text) }, ...rest];
}

const forged = (archive: Buffer, change: (head: Header) => void): Buffer =>
  tarOf(forge(membersOf(archive), change));

const memberOf = (archive: Buffer, name: string): Member =>
  membersOf(archive).find((member) => member.name === name) as Member;

const entries = async (): Promise<string[]> => (await readdir(snapshotsDirectory())).sort();

async function plain(name: string): Promise<Buffer> {
  const stream = new PassThrough();
  const [, bytes] = await Promise.all([
    Snapshot.export(name, stream, { compress: false }),
    buffer(stream),
  ]);
  return bytes;
}

const take = (bytes: Buffer, options = {}): Promise<Snapshot> =>
  Snapshot.import(Readable.from([bytes]), options);

beforeEach(async () => make('one'));

test('a snapshot goes through an archive without its zeros', async () => {
  const path = join(await directory(), 'one.tar.gz');
  await Snapshot.export('one', path);
  expect((await stat(path)).size).toBeLessThan(8192);
  const before = await readSnapshot('one');
  await Snapshot.remove('one');
  const snapshot = await Snapshot.import(path);
  expect(snapshot.name).toBe('one');
  await snapshot.verify();
  const after = await readSnapshot('one');
  expect(after.manifest).toEqual(before.manifest);
  const memory = await stat(join(after.directory, MEMORY));
  expect(memory.size).toBe(128 * MIB);
  // A page for each of the three pieces.
  expect(memory.blocks * BLOCK).toBeLessThanOrEqual(64 * 1024);
  expect(
    (await readFile(join(after.directory, MEMORY))).toString('utf8', 20 * MIB + 5, 20 * MIB + 11),
  ).toBe('memory');
  expect((await stat(join(after.directory, 'upper.ext4'))).size).toBe(64 * MIB);
  expect(await entries()).toEqual(['one']);
});

test('an archive may be a stream, not packed, and get another name', async () => {
  const archive = await plain('one');
  expect(membersOf(archive).map(({ name }) => name)).toEqual([
    'snapshot.json',
    'upper.ext4',
    MEMORY,
    'machine/state',
  ]);
  // In pieces of any size, and of any content after the end.
  const pieces = async function* (): AsyncGenerator<Buffer> {
    for (let at = 0; at < archive.length; at += 777) yield archive.subarray(at, at + 777);
    yield Buffer.alloc(10240);
  };
  const snapshot = await Snapshot.import(pieces(), { name: 'two' });
  await snapshot.verify();
  expect(snapshot.name).toBe('two');
  await (await take(gzipSync(archive), { name: 'three' })).verify();
  expect(await entries()).toEqual(['one', 'three', 'two']);
});

test('a name that is taken is taken, unless it is to be replaced', async () => {
  const archive = await plain('one');
  expect(await rejection(take(archive))).toMatchObject({ code: 'ERR_SNAPSHOT_EXISTS' });
  const { directory: before } = await readSnapshot('one');
  await take(archive, { replace: true });
  expect((await readSnapshot('one')).directory).not.toBe(before);
  const draft = await SnapshotDraft.begin('two', { replace: false });
  expect(await rejection(take(archive, { name: 'two' }))).toMatchObject({
    code: 'ERR_SNAPSHOT_BUSY',
  });
  await draft.abandon();
  expect(await entries()).toEqual(['one']);
});

describe('what is refused', () => {
  async function refused(bytes: Buffer, options = {}): Promise<unknown> {
    const error = await rejection(take(bytes, { name: 'two', ...options }));
    expect(await entries()).toEqual(['one']);
    await (await Snapshot.get('one')).verify();
    return error.code;
  }

  test('an archive that ends anywhere before its end', async () => {
    const archive = await plain('one');
    const end = archive.length - 2 * BLOCK;
    const places = [0, 1, 100, BLOCK, BLOCK + 10, 2 * BLOCK, end / 2, end - BLOCK, end - 1];
    const members = membersOf(archive).map(
      ({ content }) => content.byteOffset - archive.byteOffset,
    );
    for (const at of [...places, ...members, ...members.map((place) => place - BLOCK)]) {
      expect([at, await refused(archive.subarray(0, at))]).toEqual([at, 'ERR_SNAPSHOT_INVALID']);
    }
    const packed = gzipSync(archive);
    for (const at of [1, 2, 20, packed.length / 2, packed.length - 9, packed.length - 1]) {
      expect([at, await refused(packed.subarray(0, at))]).toEqual([at, 'ERR_SNAPSHOT_INVALID']);
    }
  });

  test('a byte that is another, in any member and any header', async () => {
    const archive = await plain('one');
    const places = membersOf(archive).flatMap(({ content }) => {
      const start = content.byteOffset - archive.byteOffset;
      const inside = [0, 1, 7, 8, 9, content.length / 2, content.length - 1].map(Math.floor);
      return [
        ...inside.map((at) => start + at),
        ...[0, 124, 153, 156].map((at) => start - BLOCK + at),
      ];
    });
    for (const at of places) {
      const bad = Buffer.from(archive);
      bad.writeUInt8(bad.readUInt8(at) ^ 0x10, at);
      expect([at, await refused(bad)]).toEqual([at, 'ERR_SNAPSHOT_INVALID']);
    }
    const packed = gzipSync(archive);
    for (let at = 10; at < packed.length; at += 97) {
      const bad = Buffer.from(packed);
      bad.writeUInt8(bad.readUInt8(at) ^ 0x10, at);
      expect([at, await refused(bad)]).toEqual([at, 'ERR_SNAPSHOT_INVALID']);
    }
  });

  test('members that are too many, too few, twice, elsewhere, or no files', async () => {
    const members = membersOf(await plain('one'));
    const extra = (name: string, more = {}): Member[] => [
      ...members,
      { name, content: Buffer.from('extra'), ...more },
    ];
    const link = { type: '2', content: Buffer.alloc(0) };
    const state = members.find(({ name }) => name === 'machine/state') as Member;
    for (const bad of [
      extra('extra'),
      extra('../../escaped'),
      extra('/tmp/embervm-escaped'),
      extra('machine/../../escaped'),
      extra('machine', { type: '5', content: Buffer.alloc(0) }),
      extra('link', link),
      [...members, state],
      members.slice(0, -1),
      members.slice(1),
      [...members].reverse(),
      [{ ...link, name: 'snapshot.json' }, ...members.slice(1)],
      members.map((member) => (member === state ? { ...member, ...link } : member)),
      members.map((member) => (member === state ? { ...member, name: '../state' } : member)),
    ]) {
      expect(await refused(tarOf(bad))).toBe('ERR_SNAPSHOT_INVALID');
    }
    // Even where the manifest names it.
    for (const path of ['../escaped', 'machine/../../escaped', '/tmp/escaped', 'upper.ext4/x']) {
      const bad = forge(extra(path), ({ manifest }) => {
        manifest.files.push({ path, bytes: 5, storedBytes: 5, sha256: 'a'.repeat(64) });
      });
      expect(await refused(tarOf(bad))).toBe('ERR_SNAPSHOT_INVALID');
    }
    expect(existsSync('/tmp/embervm-escaped')).toBe(false);
    expect(existsSync(join(snapshotsDirectory(), '../escaped'))).toBe(false);
  });

  test.each<[string, (manifest: Header['manifest'], files: Files) => void, string]>([
    ['another digest', (_, [, memory]) => Object.assign(memory, { sha256: SHA }), 'INVALID'],
    ['fewer bytes of a member', (_, [, memory]) => memory.storedBytes--, 'INVALID'],
    ['less memory', (_, [, memory]) => Object.assign(memory, { bytes: 64 * MIB }), 'INVALID'],
    ['a large disk', (_, [disk]) => Object.assign(disk, { storedBytes: 65 * MIB }), 'INVALID'],
    ['a large state', (_, [, , state]) => Object.assign(state, { bytes: 2 ** 30 }), 'INVALID'],
    ['a file twice', ({ files }, [disk]) => files.push(disk), 'INVALID'],
    ['no files', ({ files }) => files.splice(0), 'INVALID'],
    ['no machine', ({ files }) => files.splice(2), 'INVALID'],
    ['a smaller machine', options({ memoryMib: 64 }), 'INVALID'],
    ['a machine that no host has', options({ memoryMib: 2 ** 30 }), 'INVALID'],
    ['options that are none', options({ memoryMib: 'much' }), 'INVALID'],
    ['a disk of the host', options({ image: { disk: '/dev/sda' } }), 'UNSUPPORTED'],
    ['a kernel of the host', options({ kernel: { path: '/etc/shadow' } }), 'UNSUPPORTED'],
    ['another version', (manifest) => Object.assign(manifest, { version: 2 }), 'VERSION'],
  ])('a manifest that claims %s', async (_what, change, code) => {
    const bad = forged(await plain('one'), ({ manifest }) => {
      change(manifest, manifest.files as Files);
    });
    expect(await refused(bad)).toBe(`ERR_SNAPSHOT_${code}`);
  });

  test('a name that is none, where the archive is to choose', async () => {
    const bad = forged(await plain('one'), (head) => {
      head.name = '../one';
    });
    expect(await refused(bad, { name: undefined })).toBe('ERR_INVALID_CONFIG');
  });

  test('content that claims more than its file, or is out of order', async () => {
    const archive = await plain('one');
    const { content } = memberOf(archive, MEMORY);
    const record = 8 + 64 * 1024;
    const rewrite = (change: (bytes: Buffer) => Buffer): Buffer => {
      const bytes = change(Buffer.from(content));
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      const members = membersOf(archive).map((member) =>
        member.name === MEMORY ? { ...member, content: bytes } : member,
      );
      return tarOf(
        forge(members, ({ manifest }) => {
          Object.assign(manifest.files[1] ?? {}, { sha256, storedBytes: bytes.length });
        }),
      );
    };
    const withOffset = (offset: bigint) => (bytes: Buffer) => {
      bytes.writeBigUInt64LE(offset, record);
      return bytes;
    };
    for (const change of [
      withOffset(1n),
      withOffset(0n),
      withOffset(BigInt(128 * MIB)),
      withOffset(2n ** 63n),
      (bytes: Buffer) => bytes.subarray(0, -1),
      (bytes: Buffer) => Buffer.concat([bytes, bytes.subarray(-record)]),
      (bytes: Buffer) => bytes.fill(0, record + 8, 2 * record),
    ]) {
      expect(await refused(rewrite(change))).toBe('ERR_SNAPSHOT_INVALID');
    }
    await (
      await take(
        rewrite((bytes) => bytes),
        { name: 'same' },
      )
    ).verify();
    await Snapshot.remove('same');
  });

  test('a member whose header claims more than there is, and a bomb', async () => {
    const members = membersOf(await plain('one'));
    const claims = members.map((member) =>
      member.name === MEMORY ? { ...member, size: 8 ** 11 - 1 } : member,
    );
    expect(await refused(tarOf(claims))).toBe('ERR_SNAPSHOT_INVALID');
    const zeros = Buffer.concat([tarOf(members), Buffer.alloc(16 * MIB)]);
    expect(await refused(gzipSync(zeros))).toBe('ERR_SNAPSHOT_INVALID');
    expect(await refused(gzipSync(Buffer.alloc(16 * MIB)))).toBe('ERR_SNAPSHOT_INVALID');
    const huge = { name: 'snapshot.json', content: Buffer.alloc(5 * MIB, ' ') };
    expect(await refused(tarOf([huge]))).toBe('ERR_SNAPSHOT_INVALID');
    expect(await refused(await plain('one'), { maxBytes: 1000 })).toBe('ERR_SNAPSHOT_INVALID');
  });

  test('what is no archive at all', async () => {
    expect(await refused(Buffer.alloc(0))).toBe('ERR_SNAPSHOT_INVALID');
    expect(await refused(Buffer.alloc(64 * 1024))).toBe('ERR_SNAPSHOT_INVALID');
    expect(await refused(Buffer.from('hello'))).toBe('ERR_SNAPSHOT_INVALID');
    expect(await refused(Buffer.alloc(4096, 'x'))).toBe('ERR_SNAPSHOT_INVALID');
  });
});

test('reading and writing that fail are told as such', async () => {
  const path = join(await directory(), 'one.tar');
  const code = async (promise: Promise<unknown>): Promise<string> =>
    (await rejection(promise)).code;
  expect(await code(Snapshot.export('none', path))).toBe('ERR_SNAPSHOT_NOT_FOUND');
  expect(existsSync(path)).toBe(false);
  expect(await code(Snapshot.export('one', join(path, 'below')))).toBe('ERR_SNAPSHOT_WRITE');
  await writeFile(path, 'mine');
  expect(await code(Snapshot.export('one', path))).toBe('ERR_SNAPSHOT_WRITE');
  expect(await readFile(path, 'utf8')).toBe('mine');
  const broken = new Writable({
    highWaterMark: 1,
    write: (_chunk, _encoding, done) => done(new Error('no more')),
  });
  const failure = await rejection(Snapshot.export('one', broken, { compress: false }));
  expect(failure).toMatchObject({ code: 'ERR_SNAPSHOT_WRITE', cause: { message: 'no more' } });
  expect(await code(Snapshot.export('one', '/dev/full'))).toBe('ERR_SNAPSHOT_WRITE');

  expect(await code(Snapshot.import(`${path}-none`))).toBe('ERR_SNAPSHOT_READ');
  expect(await code(Snapshot.import(await directory()))).toBe('ERR_SNAPSHOT_READ');
  const breaking = async function* (): AsyncGenerator<Buffer> {
    yield (await plain('one')).subarray(0, 3000);
    throw new Error('the line went dead');
  };
  expect(await rejection(Snapshot.import(breaking(), { name: 'two' }))).toMatchObject({
    code: 'ERR_SNAPSHOT_READ',
    cause: { message: 'the line went dead' },
  });
  expect(await code(Snapshot.import(7 as never))).toBe('ERR_INVALID_CONFIG');
  expect(await code(Snapshot.export('one', 7 as never))).toBe('ERR_INVALID_CONFIG');
  expect(await code(Snapshot.export('one', path, { level: 9 } as never))).toBe(
    'ERR_INVALID_CONFIG',
  );
  expect(await entries()).toEqual(['one']);
});

test('both give up when they are asked to, also while nothing comes or goes', async () => {
  const aborted = AbortSignal.abort();
  const path = join(await directory(), 'one.tar');
  for (const promise of [
    Snapshot.export('one', path, { signal: aborted }),
    Snapshot.import(Readable.from([]), { signal: aborted }),
  ]) {
    expect((await rejection(promise)).code).toBe('ERR_ABORTED');
  }
  const later = (): AbortSignal => AbortSignal.timeout(50);
  const silent = new PassThrough();
  silent.write((await plain('one')).subarray(0, 5000));
  expect((await rejection(Snapshot.import(silent, { name: 'two', signal: later() }))).code).toBe(
    'ERR_ABORTED',
  );
  const stuck = new Writable({ highWaterMark: 1, write: () => {} });
  const giveUp = Snapshot.export('one', stuck, { compress: false, signal: later() });
  expect((await rejection(giveUp)).code).toBe('ERR_ABORTED');
  expect(stuck.destroyed).toBe(true);
  expect(existsSync(path)).toBe(false);
  expect(await entries()).toEqual(['one']);
});

test('a snapshot that was changed is not exported', async () => {
  const path = join(await directory(), 'one.tar');
  const { directory: place } = await readSnapshot('one');
  const file = await open(join(place, MEMORY), 'r+');
  await file.write('x', 40 * MIB);
  await file.close();
  expect(await rejection(Snapshot.export('one', path))).toMatchObject({
    code: 'ERR_SNAPSHOT_INVALID',
    context: { file: MEMORY },
  });
  expect(existsSync(path)).toBe(false);
  await make('disk', { options: { ...FACTS.options, image: { disk: '/x.raw' } } });
  expect((await rejection(Snapshot.export('disk', path))).code).toBe('ERR_SNAPSHOT_UNSUPPORTED');
});
