import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { EmbervmError, ImageError } from '../../lib/errors.js';
import { buildImage } from '../../lib/image/build-image.js';
import { rejection } from '../helpers/rejection.js';

const scratch = mkdtempSync(join(tmpdir(), 'embervm-image-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const inScratch = (name: string): string => join(scratch, name);
const digestOf = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex');

/** A tar archive of real files, made by the host's tar. */
function layerOf(name: string, files: Record<string, string>): string {
  const tree = inScratch(`${name}.d`);
  mkdirSync(tree);
  for (const [file, content] of Object.entries(files)) writeFileSync(join(tree, file), content);
  const archive = inScratch(`${name}.tar`);
  execFileSync('tar', ['-C', tree, '--sort=name', '--mtime=@0', '-cf', archive, '.']);
  return archive;
}

const lower = layerOf('lower', { keep: 'kept', gone: 'g'.repeat(100_000) });
const upper = layerOf('upper', { '.wh.gone': '', new: 'n'.repeat(5000) });
const list = (image: string): string =>
  execFileSync('dump.erofs', ['--path=/', '--ls', image], { encoding: 'utf8', stdio: 'pipe' });

test('layers make one image, the same each time', async () => {
  const path = inScratch('a.erofs');
  const report = await buildImage({ layers: [lower, upper], path });
  expect(report.inodes).toBe(3);
  expect(report.imageBytes).toBe(readFileSync(path).length);
  execFileSync('fsck.erofs', [path], { stdio: 'pipe' });
  await buildImage({ layers: [lower, upper], path: inScratch('b.erofs') });
  expect(digestOf(inScratch('b.erofs'))).toBe(digestOf(path));
  expect(list(path)).toMatch(/keep[\s\S]*new/);
  expect(list(path)).not.toContain('gone');
});

test('what fails says which layer and leaves nothing', async () => {
  const path = inScratch('bad.erofs');
  const before = readdirSync(scratch);
  const bad = inScratch('bad.tar');
  writeFileSync(bad, 'x'.repeat(512));
  const error = await rejection(buildImage({ layers: [lower, bad], path }));
  expect(error).toBeInstanceOf(ImageError);
  expect(error).toMatchObject({ code: 'ERR_IMAGE_INVALID', context: { layer: 1 } });
  expect(
    await rejection(buildImage({ layers: [lower], path, limits: { entries: 2 } })),
  ).toMatchObject({ code: 'ERR_IMAGE_LIMIT', context: { limit: 2 } });
  expect(await rejection(buildImage({ layers: [inScratch('none')], path }))).toMatchObject({
    code: 'ERR_IMAGE_READ',
    errno: 'ENOENT',
    syscall: 'open',
  });
  expect(
    await rejection(buildImage({ layers: [lower], path: inScratch('no/where') })),
  ).toMatchObject({ code: 'ERR_IMAGE_WRITE', errno: 'ENOENT' });
  expect(await rejection(buildImage({ layers: ['a\0b'], path }))).toMatchObject({
    code: 'ERR_INVALID_CONFIG',
  });
  expect(readdirSync(scratch)).toEqual([...before, 'bad.tar'].sort());
});

test('an abort ends it, before and meanwhile', async () => {
  const path = inScratch('aborted.erofs');
  const reason = new Error('changed my mind');
  const early = await rejection(
    buildImage({ layers: [lower], path, signal: AbortSignal.abort(reason) }),
  );
  expect(early).toBeInstanceOf(EmbervmError);
  expect(early).toMatchObject({ code: 'ERR_ABORTED', cause: reason });
  const controller = new AbortController();
  const layers = Array.from({ length: 500 }, () => lower);
  const building = buildImage({ layers, path, signal: controller.signal });
  controller.abort(reason);
  expect(await rejection(building)).toMatchObject({ code: 'ERR_ABORTED', cause: reason });
  expect(readdirSync(scratch).filter((name) => name.startsWith('aborted'))).toEqual([]);
});
