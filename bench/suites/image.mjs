// What images cost: a layer made into a root against a plain copy of it, a sandbox of a cached image
// against one of the built-in base, pulls of one image by several processes at once, and reads of a
// disk through the block device against plain ones.
import { execFile, execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  createReadStream,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { buildImage } from '../../dist/image/build-image.js';
import { pull } from '../../dist/image/store/pull.js';
import { Sandbox } from '../../dist/index.js';
import { runNative } from '../lib/native-bench.mjs';
import { round, summarize } from '../lib/statistics.mjs';

const MIB = 2 ** 20;
const IMAGE_MIB = 300;
const FILE_BYTES = [700, 5_000, 40_000, 300_000, 4_000_000];
const ROUNDS = 7;
const CREATES = 15;
const PROCESSES = 8;
const NAME = 'docker.io/library/bench:1';
const MEMORY_MIB = 128;
/** Stages of a start in which the host alone is at work. */
const HOST_STAGES = ['validate', 'image', 'assets', 'disk'];

const run = promisify(execFile);
const child = fileURLToPath(new URL('../../test/fixtures/pull-image.mjs', import.meta.url));
const digestOf = (bytes) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

/** A tar archive of files of all sizes, with a busybox to boot. */
function makeLayer(directory) {
  const tree = join(directory, 'tree');
  mkdirSync(join(tree, 'bin'), { recursive: true });
  copyFileSync('/bin/busybox', join(tree, 'bin/busybox'));
  chmodSync(join(tree, 'bin/busybox'), 0o755);
  copyFileSync(join(tree, 'bin/busybox'), join(tree, 'bin/true'));
  chmodSync(join(tree, 'bin/true'), 0o755);
  const noise = randomBytes(8 * MIB);
  let bytes = 0;
  for (let file = 0; bytes < IMAGE_MIB * MIB; file++) {
    const size = FILE_BYTES[file % FILE_BYTES.length];
    const sub = join(tree, `d${file % 50}`);
    mkdirSync(sub, { recursive: true });
    const at = (file * 4099) % (noise.length - size);
    writeFileSync(join(sub, `f${file}`), noise.subarray(at, at + size));
    bytes += size;
  }
  const archive = join(directory, 'layer.tar');
  execFileSync('tar', ['-C', tree, '-cf', archive, '.']);
  rmSync(tree, { recursive: true });
  return archive;
}

/** In turns, so that what else the disk does meets both. */
async function timeConversion(archive, directory) {
  const times = { copy: [], convert: [] };
  const copy = join(directory, 'copy.tar');
  const image = join(directory, 'image.erofs');
  for (let round = 0; round <= ROUNDS; round++) {
    let startedAt = performance.now();
    execFileSync('cp', [archive, copy]);
    const copied = performance.now() - startedAt;
    rmSync(copy);
    startedAt = performance.now();
    await buildImage({ layers: [archive], path: image });
    const converted = performance.now() - startedAt;
    rmSync(image);
    // The first of each fills the page cache.
    if (round === 0) continue;
    times.copy.push(copied);
    times.convert.push(converted);
  }
  const mib = statSync(archive).size / MIB;
  const copyMs = summarize(times.copy).median;
  const { median, min, max } = summarize(times.convert);
  const speed = (ms) => round((mib * 1000) / ms);
  return {
    name: 'convert_mib_s',
    value: speed(median),
    unit: 'MiB/s',
    min: speed(max),
    max: speed(min),
    ratio: round(copyMs / median),
  };
}

/** An image of one layer that is in a file, for this process and for others. */
function publish(archive, directory) {
  const layer = readFileSync(archive);
  const digest = digestOf(layer);
  const config = JSON.stringify({
    architecture: 'amd64',
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: [digest] },
  });
  const mediaType = 'application/vnd.oci.image.layer.v1.tar';
  const manifest = JSON.stringify({
    schemaVersion: 2,
    config: { digest: digestOf(config), size: config.length },
    layers: [{ mediaType, digest, size: layer.length }],
  });
  const contents = {
    reference: null,
    rootDigest: digestOf(manifest),
    manifestDigest: digestOf(manifest),
    manifest,
    config,
    configDigest: digestOf(config),
    layers: [{ mediaType, digest, size: layer.length, compression: 'none', diffId: digest }],
  };
  writeFileSync(join(directory, 'contents.json'), JSON.stringify(contents));
  copyFileSync(archive, join(directory, digest.slice('sha256:'.length)));
  return contents;
}

async function timePulls(directory, home) {
  const store = new URL('../../dist/image/store', import.meta.url).href;
  const startedAt = performance.now();
  await Promise.all(
    Array.from({ length: PROCESSES }, () =>
      run(process.execPath, [child, store, directory, NAME], {
        env: { ...process.env, EMBERVM_HOME: home },
      }),
    ),
  );
  const ms = performance.now() - startedAt;
  const opened = readFileSync(join(directory, 'opened'), 'utf8').trim().split('\n');
  return [
    {
      name: 'pull_by_8_processes_downloads_per_blob',
      value: opened.length / new Set(opened).size,
      unit: 'downloads',
    },
    { name: 'pull_by_8_processes_ms', value: round(ms), unit: 'ms' },
  ];
}

/** What an image that is there adds to the host's part of a warm start. */
async function timeCreates(contents, archive) {
  await pull({
    reference: NAME,
    name: NAME,
    policy: 'if-missing',
    open: async () => ({
      resolve: async () => ({
        ...contents,
        manifest: Buffer.from(contents.manifest),
        config: Buffer.from(contents.config),
      }),
      openBlob: async (_layer, { offset }) => createReadStream(archive, { start: offset }),
      close: async () => {},
    }),
    report: () => {},
    signal: undefined,
  });
  const hostMs = { base: [], image: [] };
  const kinds = { base: {}, image: { image: NAME } };
  for (let round = 0; round <= CREATES; round++) {
    for (const [kind, options] of Object.entries(kinds)) {
      const sandbox = await Sandbox.create({ memoryMib: MEMORY_MIB, ...options });
      const { start, stages } = sandbox.bootReport();
      await sandbox.close();
      // The first of each kind leaves the template.
      if (round === 0) continue;
      if (start !== 'warm') throw new Error(`a start with the ${kind} was ${start}`);
      const ofHost = stages.filter(({ stage }) => HOST_STAGES.includes(stage));
      hostMs[kind].push(ofHost.reduce((sum, { durationMs }) => sum + durationMs, 0));
    }
  }
  const base = summarize(hostMs.base);
  const image = summarize(hostMs.image);
  return [
    {
      name: 'create_cached_image_overhead_ms',
      value: round(image.median - base.median),
      unit: 'ms',
      min: round(image.min - base.median),
      max: round(image.max - base.median),
    },
    { name: 'create_host_side_ms', value: round(base.median), unit: 'ms' },
  ];
}

async function blockReads(note) {
  const run = await runNative('blk', note);
  return [
    {
      name: 'blk_iops',
      value: run.reads_per_second,
      unit: '/s',
      ratio: run.ratio,
      min: run.min,
      max: run.max,
    },
    { name: 'preadv_iops', value: run.preadv_per_second, unit: '/s' },
  ];
}

export async function measure(note) {
  const blocks = await blockReads(note);
  const directory = mkdtempSync(join(tmpdir(), 'embervm-bench-image-'));
  const inherited = process.env.EMBERVM_HOME;
  try {
    note(`making a layer of ${IMAGE_MIB} MiB…`);
    const archive = makeLayer(directory);
    note('converting it and copying it in turns…');
    const conversion = await timeConversion(archive, directory);
    note(`pulling it with ${PROCESSES} processes…`);
    const contents = publish(archive, directory);
    const pulls = await timePulls(directory, join(directory, 'pulls'));
    note('creating sandboxes with and without it…');
    process.env.EMBERVM_HOME = join(directory, 'home');
    const creates = await timeCreates(contents, archive);
    return [conversion, ...creates, ...pulls, ...blocks];
  } finally {
    if (inherited === undefined) delete process.env.EMBERVM_HOME;
    else process.env.EMBERVM_HOME = inherited;
    rmSync(directory, { recursive: true, force: true });
  }
}
