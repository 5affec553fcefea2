import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Image } from '../../lib/image/image.js';
import { packageRoot } from '../../lib/native/package-root.js';
import { digestOf } from '../helpers/image-fixture.js';
import { layerOf, type MadeLayer, MadeSource } from '../helpers/image-source.js';
import { useKillAtStep } from '../helpers/kill-at-step.js';

const run = promisify(execFile);
const fixture = fileURLToPath(new URL('../fixtures/pull-image.mjs', import.meta.url));
const store = `file://${join(packageRoot(), 'dist/image/store')}`;
const killer = useKillAtStep();
const PROCESSES = 8;
const MADE = 'docker.io/library/made:latest';

let scratch = '';
let home = '';
const inherited = process.env.EMBERVM_HOME;
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'embervm-pulls-'));
  home = join(scratch, 'home');
  process.env.EMBERVM_HOME = home;
});
afterEach(() => {
  if (inherited === undefined) delete process.env.EMBERVM_HOME;
  else process.env.EMBERVM_HOME = inherited;
  rmSync(scratch, { recursive: true, force: true });
});

function layer(name: string, bytes: number): MadeLayer {
  const tree = join(scratch, `${name}.d`);
  mkdirSync(tree);
  writeFileSync(join(tree, name), randomBytes(bytes));
  return layerOf(execFileSync('tar', ['-C', tree, '-c', '.'], { maxBuffer: 1e9 }));
}

/** The blobs of an image as files, for processes to pull it from. */
async function publish(layers: MadeLayer[]): Promise<string> {
  const directory = join(scratch, 'registry');
  mkdirSync(directory);
  for (const { digest, bytes } of layers) writeFileSync(join(directory, digest.slice(7)), bytes);
  const contents = await new MadeSource(layers).resolve();
  const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
  const file = {
    ...contents,
    manifest: text(contents.manifest),
    config: text(contents.config),
  };
  writeFileSync(join(directory, 'contents.json'), JSON.stringify(file));
  return directory;
}

const filesOf = (...parts: string[]): string[] => {
  const path = join(home, ...parts);
  return existsSync(path) ? readdirSync(path) : [];
};

function expectGoodBlobs(): void {
  for (const name of filesOf('images', 'blobs')) {
    expect(digestOf(readFileSync(join(home, 'images/blobs', name)))).toBe(`sha256:${name}`);
  }
}

test('eight processes that pull one image fetch each layer once', async () => {
  const layers = [layer('a', 3_000_000), layer('b', 1_000_000), layer('c', 10_000)];
  const directory = await publish(layers);
  const ends = await Promise.all(
    Array.from({ length: PROCESSES }, (_, index) =>
      // Two names: those of the second find all layers, too.
      run(process.execPath, [fixture, store, directory, `docker.io/library/name-${index % 2}:1`]),
    ),
  );
  expect(new Set(ends.map(({ stdout }) => stdout)).size).toBe(1);
  const opened = readFileSync(join(directory, 'opened'), 'utf8').trim().split('\n').sort();
  expect(opened).toEqual(layers.map(({ digest }) => digest).sort());
  expectGoodBlobs();
  expect(filesOf('images', 'roots').length).toBe(1);
  expect([...filesOf('cache'), ...filesOf('images', 'locks')]).toEqual([]);
  expect((await Image.list()).map(({ references }) => references)).toEqual([
    ['docker.io/library/name-0:1', 'docker.io/library/name-1:1'],
  ]);
});

test('a pull that is killed at any step leaves what is right, or nothing', async () => {
  const directory = await publish([layer('a', 20_000)]);
  const args = [fixture, store, directory, MADE];
  const roots: string[] = [];
  const steps = await killer.everyStep(home, args, async () => {
    expectGoodBlobs();
    for (const { digest, references } of await Image.list()) {
      // What can be listed can be used.
      expect(digest).toMatch(/^sha256:/);
      expect(references.every((name) => name === MADE)).toBe(true);
    }
    for (const root of filesOf('images', 'roots')) {
      execFileSync('fsck.erofs', [join(home, 'images/roots', root)], { stdio: 'pipe' });
      roots.push(root);
    }
    if (filesOf('images', 'refs').length > 0) return;
    // Each time from the beginning, so that each step is one of a whole pull.
    rmSync(home, { recursive: true, force: true });
  });
  expect(steps).toBeGreaterThan(10);
  expect(new Set(roots).size).toBe(1);
  expect((await Image.inspect(MADE)).layers.length).toBe(1);
  await Image.prune();
  const left = ['blobs', 'roots', 'pulls', 'manifests', 'refs'].flatMap((name) =>
    // What a record was on its way in; nobody takes it for one.
    filesOf('images', name).filter((file) => !file.startsWith('.')),
  );
  expect(left).toEqual([]);
});
