/** `copyOut` from a guest that lies: nothing but the target is ever written. */
import {
  constants,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { CopyOutOptions } from '../../lib/config/files.js';
import type { CopyResult } from '../../lib/index.js';
import { FileEvent, type FileInfo } from '../../lib/rpc/gen/files_pb.js';
import { TtrpcServer } from '../../lib/rpc/server.js';
import type { TtrpcStream } from '../../lib/rpc/stream.js';
import { SandboxFiles } from '../../lib/sandbox/files.js';
import { useDirectory } from '../helpers/directory.js';
import { rejection } from '../helpers/rejection.js';
import { socketPair } from '../helpers/socket-pair.js';

const { S_IFDIR, S_IFLNK, S_IFREG, S_IFCHR } = constants;
const makeDirectory = useDirectory();
const empty = new Uint8Array();

type Said = Partial<Omit<FileEvent, 'entries' | 'data'>> & {
  entry?: Partial<Omit<FileInfo, 'name' | 'target'>> & { name?: string; target?: string };
  data?: string;
};

const dir = (name: string): Said => ({ entry: { name, mode: S_IFDIR | 0o755 } });
const file = (name: string, mode = 0o644): Said => ({ entry: { name, mode: S_IFREG | mode } });
const link = (name: string, target: string): Said => ({ entry: { name, target, mode: S_IFLNK } });
const leave: Said = { entry: {} };
const last: Said = {};

function encode({ entry, data, ...rest }: Said): Uint8Array {
  const info = entry && {
    mode: 0,
    size: 0n,
    mtimeNs: 0n,
    uid: 0,
    gid: 0,
    links: 1,
    inode: 1n,
    change: 0,
    ...entry,
    name: Buffer.from(entry.name ?? '', 'latin1'),
    target: Buffer.from(entry.target ?? ''),
  };
  return FileEvent.encode({
    data: data === undefined ? empty : Buffer.from(data),
    entries: info === undefined ? [] : [info],
    errno: 0,
    call: '',
    path: empty,
    hole: 0n,
    changed: false,
    ...rest,
  }).finish();
}

/** Files of a guest that answers a read with `events`. */
function filesOf(events: Said[]): SandboxFiles {
  const serve = async (stream: TtrpcStream): Promise<void> => {
    await stream.receive();
    for (const event of events) await stream.send(encode(event));
  };
  return new SandboxFiles({
    call: async () => empty,
    connect: async () => {
      const [near, far] = await socketPair();
      new TtrpcServer(far, { 'embervm.agent.v1.Files': { Read: { stream: serve } } });
      return near;
    },
    explain: async (error) => error,
  });
}

async function attempt(
  events: Said[],
  prepare: (target: string, outside: string) => void = () => {},
  options: CopyOutOptions = {},
): Promise<{ home: string; target: string; outside: string; copy: Promise<CopyResult> }> {
  const home = await makeDirectory();
  const target = join(home, 'target');
  const outside = join(home, 'outside');
  mkdirSync(outside);
  writeFileSync(join(outside, 'file'), 'untouched');
  prepare(target, outside);
  const copy = filesOf(events).copyOut('/guest', target, options);
  copy.catch(() => {});
  return { home, target, outside, copy };
}

async function expectUntouched(home: string, outside: string): Promise<void> {
  expect((await readdir(home)).filter((name) => !['target', 'outside'].includes(name))).toEqual([]);
  expect(await readdir(outside)).toEqual(['file']);
  expect(readFileSync(join(outside, 'file'), 'utf8')).toBe('untouched');
}

test('an honest tree arrives', async () => {
  const events = [
    dir(''),
    file('a', 0o750),
    { data: 'one' },
    { hole: 5n },
    dir('sub'),
    file('b'),
    leave,
    file('\xff\xfe'),
    link('l', 'a'),
    last,
  ];
  const { target, copy } = await attempt(events);
  expect(await copy).toEqual({ files: 3, directories: 2, symlinks: 1, bytes: 8, changed: [] });
  expect(readFileSync(join(target, 'a'), 'latin1')).toBe('one\0\0\0\0\0');
  expect(lstatSync(join(target, 'a')).mode & 0o7777).toBe(0o750);
  expect(await readdir(target, { encoding: 'buffer' })).toContainEqual(Buffer.from([0xff, 0xfe]));
});

test.each(['..', '.', 'a/b', '../outside/file', '/etc/passwd', 'a\0b', 'x'.repeat(256)])(
  'the name %j is refused for every kind',
  async (name) => {
    for (const entry of [file(name), dir(name), link(name, '/etc')]) {
      const { home, outside, copy } = await attempt([dir(''), entry, { data: 'x' }, last]);
      expect((await rejection(copy)).code).toBe('ERR_FILE_ESCAPE');
      await expectUntouched(home, outside);
    }
  },
);

test('a link that the guest makes is never gone through', async () => {
  for (const second of [dir('l'), dir('file')]) {
    const events = [dir(''), link('l', '../outside'), link('file', '../outside/file'), second];
    const through = await attempt([...events, file('file'), { data: 'evil' }, last]);
    expect((await rejection(through.copy)).code).toBe('ERR_FILE_ESCAPE');
    await expectUntouched(through.home, through.outside);
  }
  const events = [dir(''), link('file', '../outside/file'), file('file'), { data: 'evil' }, last];
  const replaced = await attempt(events);
  await replaced.copy;
  expect(readFileSync(join(replaced.target, 'file'), 'utf8')).toBe('evil');
  await expectUntouched(replaced.home, replaced.outside);
});

test('a link that lies there already is never gone through, but for the target itself', async () => {
  const inside = await attempt(
    [dir(''), dir('l'), file('file'), { data: 'evil' }, last],
    (target, outside) => {
      mkdirSync(target);
      symlinkSync(outside, join(target, 'l'));
    },
  );
  expect((await rejection(inside.copy)).code).toBe('ERR_FILE_ESCAPE');
  await expectUntouched(inside.home, inside.outside);

  const single = await attempt([file(''), { data: 'new' }, last], (target, outside) => {
    symlinkSync(join(outside, 'file'), target);
  });
  await single.copy;
  expect(lstatSync(single.target).isFile()).toBe(true);
  await expectUntouched(single.home, single.outside);

  const own = await attempt([dir(''), file('new'), { data: 'new' }, last], (target, outside) => {
    symlinkSync(outside, target);
  });
  await own.copy;
  expect(readFileSync(join(own.outside, 'new'), 'utf8')).toBe('new');
});

test('rights do not come along, and devices do not come at all', async () => {
  const suid = await attempt([dir(''), file('s', 0o6755), last]);
  await suid.copy;
  expect(lstatSync(join(suid.target, 's')).mode & 0o7777).toBe(0o755);
  const device = await attempt([dir(''), { entry: { name: 'd', mode: S_IFCHR | 0o666 } }, last]);
  expect(await rejection(device.copy)).toMatchObject({
    code: 'ERR_FILE_SPECIAL',
    path: '/guest/d',
  });
  const single = await attempt([{ entry: { mode: S_IFCHR | 0o666 } }, last]);
  expect((await rejection(single.copy)).code).toBe('ERR_FILE_SPECIAL');
});

test('limits hold, and what is not complete is removed', async () => {
  const hole = [dir(''), file('bomb'), { hole: 2n ** 63n }, last];
  for (const [events, options] of [
    [hole, {}],
    [[dir(''), file('bomb'), { data: 'x'.repeat(100) }, last], { maxBytes: 99 }],
    [[dir(''), file('a'), file('b'), last], { maxEntries: 2 }],
    [[dir(''), ...Array.from({ length: 300 }, () => dir('d')), last], {}],
  ] as [Said[], CopyOutOptions][]) {
    const { target, copy } = await attempt(events, undefined, options);
    expect((await rejection(copy)).code).toBe('ERR_FILE_LIMIT');
    const left = await readdir(target);
    expect(left.filter((name) => name === 'bomb' || name.startsWith('.embervm'))).toEqual([]);
  }
});

test('an order that makes no sense is a protocol error', async () => {
  for (const events of [
    [],
    [last],
    [{ data: 'x' }],
    [dir(''), { data: 'x' }],
    [dir(''), leave, file('a')],
    [dir(''), dir('a'), last],
    [file(''), file('b'), last],
    [dir(''), file('a'), leave, { data: 'x' }],
    [{ changed: true }],
    [{ hole: 1n }],
  ] as Said[][]) {
    const { home, outside, copy } = await attempt(events);
    expect((await rejection(copy)).code).toBe('ERR_RPC_PROTOCOL');
    await expectUntouched(home, outside);
  }
});

test('what the guest says of a failure is bounded', async () => {
  const { copy } = await attempt([
    dir(''),
    { errno: 5, call: 'x\x1b[2J', path: Buffer.alloc(1 << 20, '/') },
  ]);
  const error = await rejection(copy);
  expect(error.code).toBe('ERR_FILE_FAILED');
  expect(error.message.length).toBeLessThan(5000);
  expect(error.message).not.toContain('\x1b');
});

test('a host that is full or forbids it is told by its errno', async () => {
  const { copy } = await attempt([dir(''), file('a'), last], (target) => {
    mkdirSync(target);
    mkdirSync(join(target, 'a'));
  });
  expect(await rejection(copy)).toMatchObject({ code: 'ERR_FILE_IS_DIRECTORY', errno: 'EISDIR' });
  const missing = filesOf([file(''), last]).copyOut('/guest', '/nonexistent/below/file');
  expect((await rejection(missing)).code).toBe('ERR_FILE_NOT_FOUND');
  expect(existsSync('/nonexistent')).toBe(false);
});
