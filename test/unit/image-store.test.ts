import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { ImageProgressEvent, PullPolicy } from '../../lib/config/image.js';
import { ImageError } from '../../lib/errors.js';
import { Image } from '../../lib/image/image.js';
import { parseReference } from '../../lib/image/reference.js';
import { writePin } from '../../lib/image/store/pin.js';
import { pull } from '../../lib/image/store/pull.js';
import type { StoredImage } from '../../lib/image/store/records.js';
import { newPin } from '../../lib/state/image-pin.js';
import { useFreshHome } from '../helpers/home.js';
import { digestOf } from '../helpers/image-fixture.js';
import { layerOf, type MadeLayer, MadeSource } from '../helpers/image-source.js';
import { rejection } from '../helpers/rejection.js';

const scratch = mkdtempSync(join(tmpdir(), 'embervm-store-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const sandboxes = useFreshHome();
const inStore = (...parts: string[]): string => join(sandboxes(), '../images', ...parts);
const filesOf = (folder: string): string[] =>
  existsSync(inStore(folder)) ? readdirSync(inStore(folder)) : [];

function tarOf(name: string, files: Record<string, string | Buffer>): Buffer {
  const tree = join(scratch, `${name}.d`);
  mkdirSync(tree);
  for (const [file, content] of Object.entries(files)) writeFileSync(join(tree, file), content);
  return execFileSync('tar', ['-C', tree, '--sort=name', '--mtime=@0', '-c', '.'], {
    maxBuffer: 1e9,
  });
}

/** Stays as large as it is, however it is packed. */
const noise = randomBytes(300_000);
const lower = layerOf(tarOf('lower', { keep: 'kept', gone: noise }));
const upper = layerOf(tarOf('upper', { '.wh.gone': '', new: 'n'.repeat(5000) }));
const modern = layerOf(
  tarOf('modern', { modern: Buffer.concat([noise, Buffer.alloc(3_000_000, 'm'), noise]) }),
  'zstd',
);
const plain = layerOf(tarOf('plain', { plain: 'p' }), 'none');
const runConfig = {
  Env: ['PATH=/bin', 'A=1=2', 'bad'],
  User: '1000:1000',
  WorkingDir: 'srv',
  Entrypoint: ['/bin/echo'],
  Cmd: ['hi'],
  Labels: { 'org.example': 'yes' },
  ExposedPorts: { '80/tcp': {} },
};

interface Options {
  name?: string | undefined;
  policy?: PullPolicy;
  report?: (event: ImageProgressEvent) => void;
  signal?: AbortSignal | undefined;
}

function pullFrom(source: MadeSource, options: Options = {}): Promise<StoredImage> {
  return pull({
    reference: options.name ?? 'made:1',
    name: canonical(options.name ?? 'made:1'),
    policy: options.policy ?? 'if-missing',
    open: async () => source,
    report: options.report ?? (() => {}),
    signal: options.signal,
  });
}

/** Names are stored as a whole: `docker.io/library/made:1`. */
function canonical(name: string): string {
  return parseReference(name).canonical;
}

function leftOvers(): string[] {
  const cache = join(sandboxes(), '../cache');
  const caches = existsSync(cache) ? readdirSync(cache) : [];
  return [...caches, ...filesOf('locks'), ...filesOf('pulls')];
}

test('an image is pulled once, and is what its layers are', async () => {
  const source = new MadeSource([lower, upper, plain], runConfig);
  const events: ImageProgressEvent[] = [];
  const image = await pullFrom(source, { report: (event) => events.push(event) });
  execFileSync('fsck.erofs', [image.rootPath], { stdio: 'pipe' });
  const listing = execFileSync('dump.erofs', ['--path=/', '--ls', image.rootPath], {
    encoding: 'utf8',
    stdio: 'pipe',
  });
  expect(listing).toMatch(/keep[\s\S]*new[\s\S]*plain/);
  expect(listing).not.toContain('gone');
  expect(image.config).toMatchObject({
    env: { PATH: '/bin', A: '1=2' },
    user: '1000:1000',
    workdir: '/srv',
    entrypoint: ['/bin/echo'],
    cmd: ['hi'],
    labels: { 'org.example': 'yes' },
    exposedPorts: ['80/tcp'],
  });
  expect(source.opened.sort()).toEqual([lower.digest, upper.digest, plain.digest].sort());
  expect(source.closed).toBe(1);
  expect(events[0]).toEqual({ type: 'resolving', reference: 'made:1' });
  expect(events[1]).toMatchObject({ type: 'resolved', layers: 3 });
  const ofLower = events.filter((event) => event.type === 'layer' && event.digest === lower.digest);
  expect(ofLower.at(0)).toMatchObject({ status: 'started', receivedBytes: 0 });
  expect(ofLower.at(-1)).toMatchObject({
    status: 'done',
    receivedBytes: lower.size,
    cached: false,
  });
  expect(events.at(-2)).toMatchObject({ type: 'converting' });
  expect(events.at(-1)).toMatchObject({ type: 'done', cached: false });

  const again = await pullFrom(source);
  expect(again.record.digest).toBe(image.record.digest);
  expect(source.resolved).toBe(1);
  await pullFrom(source, { policy: 'always' });
  expect(source.resolved).toBe(2);
  expect(source.opened.length).toBe(3);
  expect(leftOvers()).toEqual([]);
  for (const name of filesOf('blobs')) {
    expect(digestOf(readFileSync(inStore('blobs', name)))).toBe(`sha256:${name}`);
  }
});

test("'never' pulls nothing", async () => {
  const source = new MadeSource([plain]);
  const error = await rejection(pullFrom(source, { policy: 'never' }));
  expect(error).toBeInstanceOf(ImageError);
  expect(error).toMatchObject({ code: 'ERR_IMAGE_NOT_FOUND', context: { reference: 'made:1' } });
  expect(source.resolved).toBe(0);
  await pullFrom(source);
  expect((await pullFrom(source, { policy: 'never' })).record.layers.length).toBe(1);
});

test('layers and roots are shared', async () => {
  await pullFrom(new MadeSource([lower, upper]), { name: 'one' });
  const other = new MadeSource([lower, plain]);
  await pullFrom(other, { name: 'two' });
  expect(other.opened).toEqual([plain.digest]);
  const same = new MadeSource([lower, upper], { Cmd: ['other'] });
  const image = await pullFrom(same, { name: 'three' });
  expect(same.opened).toEqual([]);
  expect(image.config.cmd).toEqual(['other']);
  expect(filesOf('roots').length).toBe(2);
  const names = (await Image.list()).flatMap(({ references }) => references);
  expect(names.sort()).toEqual(['one', 'three', 'two'].map(canonical));
});

test('pulls at the same moment fetch each layer once', async () => {
  const sources = Array.from({ length: 6 }, () => new MadeSource([lower, upper, plain]));
  const other = new MadeSource([lower, plain]);
  await Promise.all([
    ...sources.map((source) => pullFrom(source)),
    pullFrom(other, { name: 'other', policy: 'always' }),
  ]);
  const opened = [...sources, other].flatMap((source) => source.opened).sort();
  expect(opened).toEqual([lower.digest, upper.digest, plain.digest].sort());
  expect(leftOvers()).toEqual([]);
});

const flipped = (bytes: Buffer): Buffer => {
  const copy = Buffer.from(bytes);
  copy[copy.length >> 1] = (copy[copy.length >> 1] ?? 0) ^ 1;
  return copy;
};

test.each<[string, (bytes: Buffer) => Buffer, string, string]>([
  ['other bytes', flipped, 'ERR_IMAGE_DIGEST', 'its digest is'],
  ['a short body', (bytes) => bytes.subarray(0, 1000), 'ERR_IMAGE_SIZE', 'it ends after 1000'],
  ['no body', () => Buffer.alloc(0), 'ERR_IMAGE_SIZE', 'it ends after 0'],
  ['a long body', (bytes) => Buffer.concat([bytes, bytes]), 'ERR_IMAGE_SIZE', 'it has more than'],
])('%s is no layer, and nothing stays of it', async (_what, spoil, code, message) => {
  const source = new MadeSource([lower, upper]);
  source.spoil = (bytes, { digest }) => (digest === lower.digest ? spoil(bytes) : bytes);
  const error = await rejection(pullFrom(source));
  expect(error).toMatchObject({ code, context: { digest: lower.digest } });
  expect((error as Error).message).toContain(message);
  expect(filesOf('blobs')).not.toContain(lower.digest.slice(7));
  expect(filesOf('roots')).toEqual([]);
  expect(leftOvers()).toEqual([]);
  source.spoil = undefined;
  await pullFrom(source);
});

test('a layer that unpacks to something else is refused', async () => {
  const wrong: MadeLayer = { ...lower, diffId: upper.diffId };
  expect(await rejection(pullFrom(new MadeSource([wrong])))).toMatchObject({
    code: 'ERR_IMAGE_DIGEST',
    message: expect.stringContaining('unpacked its digest is'),
  });
  const bytes = lower.bytes.subarray(0, lower.size - 100);
  const cut = { ...lower, bytes, size: bytes.length, digest: digestOf(bytes) };
  expect(await rejection(pullFrom(new MadeSource([cut])))).toMatchObject({
    code: 'ERR_IMAGE_INVALID',
    context: { digest: cut.digest },
  });
  expect(filesOf('roots')).toEqual([]);
  expect(leftOvers()).toEqual([]);
});

test('a body that breaks off goes on where it was', async () => {
  const source = new MadeSource([lower]);
  let breaks = 2;
  let chunks = 0;
  source.pause = async () => {
    chunks += 1;
    if (breaks === 0 || chunks % 2 === 1) return;
    breaks -= 1;
    throw Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' });
  };
  await pullFrom(source);
  expect(source.opened.length).toBe(3);
});

test('zstd is unpacked, also by what is not in every Node', async () => {
  const { rootPath, record } = await pullFrom(new MadeSource([lower, modern]));
  expect(record.layers[1]?.unpackedBytes).toBeGreaterThan(3_600_000);
  execFileSync('fsck.erofs', [rootPath], { stdio: 'pipe' });
  const bytes = modern.bytes.subarray(0, modern.size - 5000);
  const cut = { ...modern, bytes, size: bytes.length, digest: digestOf(bytes) };
  expect(await rejection(pullFrom(new MadeSource([cut]), { name: 'cut' }))).toMatchObject({
    code: 'ERR_IMAGE_INVALID',
    context: { digest: cut.digest },
  });
});

test('what rotted in the store is fetched anew', async () => {
  const source = new MadeSource([lower, upper]);
  const image = await pullFrom(source);
  const blob = inStore('blobs', lower.digest.slice(7));
  writeFileSync(blob, flipped(lower.bytes));
  truncateSync(image.rootPath, 4096);
  await pullFrom(source);
  expect(source.opened.filter((digest) => digest === lower.digest).length).toBe(2);
  expect(digestOf(readFileSync(blob))).toBe(lower.digest);
});

test('an abort leaves nothing half done', async () => {
  const source = new MadeSource([lower, upper]);
  const controller = new AbortController();
  const reason = new Error('changed my mind');
  source.pause = async () => {
    controller.abort(reason);
  };
  const error = await rejection(pullFrom(source, { signal: controller.signal }));
  expect(error).toMatchObject({ code: 'ERR_ABORTED', cause: reason });
  expect(leftOvers()).toEqual([]);
  expect(source.closed).toBe(1);
});

test('images are told, inspected and removed by name and digest', async () => {
  const { record } = await pullFrom(new MadeSource([lower, upper], runConfig), { name: 'one' });
  await pullFrom(new MadeSource([lower, upper], runConfig), { name: 'alias' });
  await pullFrom(new MadeSource([lower, plain]), { name: 'two' });
  const image = await Image.inspect('one');
  expect(image.digest).toBe(record.digest);
  expect(image.references).toEqual(['alias', 'one'].map(canonical));
  expect(image.config.cmd).toEqual(['hi']);
  expect(image.layers.map(({ digest }) => digest)).toEqual([lower.digest, upper.digest]);
  expect(image.layers[0]?.sizeBytes).toBe(lower.size);
  expect(image.sizeBytes).toBeGreaterThan(statSync(inStore('blobs', lower.digest.slice(7))).size);

  expect(await Image.remove('one')).toEqual({
    references: [canonical('one')],
    digests: [],
    freedBytes: 0,
  });
  expect(await rejection(Image.inspect('one'))).toMatchObject({ code: 'ERR_IMAGE_NOT_FOUND' });
  expect((await Image.inspect(record.digest)).references).toEqual([canonical('alias')]);
  const removed = await Image.remove(record.digest);
  expect(removed).toMatchObject({ references: [canonical('alias')], digests: [record.digest] });
  expect(removed.freedBytes).toBeGreaterThan(0);
  // What the other image has stays.
  expect(filesOf('blobs').sort()).toEqual([lower, plain].map((one) => one.digest.slice(7)).sort());
  expect(filesOf('roots').length).toBe(1);
  expect(await rejection(Image.remove('one'))).toMatchObject({ code: 'ERR_IMAGE_NOT_FOUND' });
});

test('what a sandbox has is neither removed nor pruned', async () => {
  const { record } = await pullFrom(new MadeSource([lower, upper]), { name: 'used' });
  await pullFrom(new MadeSource([plain]), { name: 'idle' });
  const directory = join(sandboxes(), 'mine');
  mkdirSync(directory, { recursive: true });
  const { digest, root } = record;
  const config = { entrypoint: [], cmd: [], labels: {} };
  const pin = newPin({ reference: 'used', digest, root, config });
  expect(await writePin(directory, pin)).toBe(true);
  for (const name of ['used', digest]) {
    expect(await rejection(Image.remove(name))).toMatchObject({
      code: 'ERR_IMAGE_IN_USE',
      context: { user: 'the sandbox "mine"' },
    });
  }
  expect((await Image.prune()).references).toEqual([canonical('idle')]);
  expect((await Image.list()).map((image) => image.references)).toEqual([[canonical('used')]]);
  rmSync(directory, { recursive: true });
  expect((await Image.prune()).digests).toEqual([digest]);
  expect([...filesOf('blobs'), ...filesOf('roots')]).toEqual([]);
  mkdirSync(directory);
  expect(await writePin(directory, pin)).toBe(false);
});

test('prune keeps what was used last, up to its size', async () => {
  const names = ['old', 'middle', 'new'];
  for (const [index, name] of names.entries()) {
    const tar = tarOf(`prune-${name}`, { [name]: noise.subarray(index) });
    const { record } = await pullFrom(new MadeSource([layerOf(tar)]), { name });
    const path = inStore('manifests', `${record.digest.slice(7)}.json`);
    utimesSync(path, 1_000_000 + index, 1_000_000 + index);
  }
  const [newest] = await Image.list();
  expect(newest?.references).toEqual([canonical('new')]);
  const { sizeBytes = 0 } = newest ?? {};
  expect((await Image.prune({ maxBytes: Math.floor(sizeBytes * 2.5) })).references).toEqual([
    canonical('old'),
  ]);
  expect((await Image.prune({ maxBytes: Math.floor(sizeBytes * 1.5) })).references).toEqual([
    canonical('middle'),
  ]);
  expect((await Image.prune({ maxBytes: 1e12 })).references).toEqual([]);
});

test('content of a pull that runs is not swept', async () => {
  await pullFrom(new MadeSource([plain]), { name: 'idle' });
  const source = new MadeSource([lower]);
  let prune: Promise<unknown> | undefined;
  source.pause = async () => {
    prune ??= Image.prune();
    await prune;
  };
  await pullFrom(source, { name: 'new' });
  expect(prune).toBeDefined();
  expect((await Image.list()).map((image) => image.references)).toEqual([[canonical('new')]]);
  await Image.prune({ maxBytes: 1e12 });
  expect(filesOf('blobs')).toEqual([lower.digest.slice(7)]);
});

test.each(['docker', 'oci'] as const)('an image is the same after %s', async (format) => {
  const { record, config } = await pullFrom(new MadeSource([lower, upper, modern], runConfig), {
    name: 'registry.example:5000/team/app:1.2',
  });
  const archive = join(scratch, `saved-${format}.tar`);
  await Image.save('registry.example:5000/team/app:1.2', archive, { format });
  await Image.remove(record.digest);
  expect(filesOf('blobs')).toEqual([]);
  const [loaded, ...others] = await Image.load(archive);
  expect(others).toEqual([]);
  expect(loaded?.references).toEqual(['registry.example:5000/team/app:1.2']);
  expect(loaded?.config).toEqual(config);
  expect(loaded?.layers.map(({ diffId }) => diffId)).toEqual(
    record.layers.map(({ diffId }) => diffId),
  );
  // What docker writes has the layers unpacked, and so another manifest.
  expect(loaded?.digest === record.digest).toBe(format === 'oci');
  execFileSync('tar', ['-tf', archive]);
  expect(readdirSync(scratch).filter((name) => name.includes('.tmp-'))).toEqual([]);

  writeFileSync(inStore('blobs', (loaded?.layers[0]?.digest ?? '').slice(7)), 'rotten');
  const before = readFileSync(archive);
  expect(await rejection(Image.save(loaded?.digest ?? '', archive, { format }))).toMatchObject({
    code: expect.stringMatching(/^ERR_IMAGE_/),
  });
  expect(readFileSync(archive).equals(before)).toBe(true);
});
