/** Images that go: by their names, or because there is too much of what nobody uses. */
import { readdir, rm, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { ignore } from '../../state/durable.js';
import { sandboxesPath } from '../../state/home.js';
import { pinsBelow } from '../../state/image-pin.js';
import { FileLock } from '../../state/lock.js';
import { sweepDeadSandboxes } from '../../state/sandbox-dir.js';
import { readSnapshots } from '../../state/snapshots/store.js';
import { imageInUse, imageNotFound, storeWriteError } from './errors.js';
import { withStore } from './mutex.js';
import { hexOf, type StoreFolder, storeFolder } from './places.js';
import {
  deleteImage,
  deleteRef,
  loadImage,
  loadImages,
  loadRefs,
  type StoredImage,
} from './records.js';

const ROOT_SUFFIX = '.erofs';

export interface Removed {
  /** Names that stand for nothing any more. */
  references: string[];
  /** Of images that are gone. */
  digests: string[];
  freedBytes: number;
}

/** By a name, which is all that goes where the image has others; or by a digest, with all names. */
export async function removeImage(reference: string, isDigest: boolean): Promise<Removed> {
  return withStore(async () => {
    const refs = await loadRefs();
    const digest = isDigest ? reference : refs.get(reference);
    if (digest === undefined) throw imageNotFound(reference, 'nothing was pulled by this name');
    const names = [...refs].flatMap(([name, of]) => (of === digest ? [name] : []));
    if (!isDigest && names.length > 1) {
      await deleteRef(reference);
      return { references: [reference], digests: [], freedBytes: 0 };
    }
    const image = await loadImage(digest);
    if (image === undefined && names.length === 0) {
      throw imageNotFound(reference, 'nothing was pulled with this digest');
    }
    const user = image === undefined ? undefined : (await usersOf()).get(image.record.root);
    if (user !== undefined) throw imageInUse(reference, user);
    return forget([digest], refs);
  });
}

/** The least recently used images that nobody uses, until at most `maxBytes` of them are left. */
export async function pruneImages(maxBytes: number): Promise<Removed> {
  return withStore(async () => {
    const users = await usersOf();
    const idle = (await loadImages()).filter(({ record }) => !users.has(record.root));
    idle.sort((a, b) => b.lastUsedAt - a.lastUsedAt);
    let kept = 0;
    const digests: string[] = [];
    for (const image of idle) {
      kept += storedBytes(image);
      if (kept > maxBytes) digests.push(image.record.digest);
    }
    return forget(digests, await loadRefs());
  });
}

/** What an image takes on the disk; others may share it. */
export function storedBytes({ record }: StoredImage): number {
  const blobs = new Map(record.layers.map(({ digest, size }) => [digest, size]));
  return [...blobs.values()].reduce((sum, size) => sum + size, record.rootBytes);
}

/** A user of each root that has one, as an error names it. */
async function usersOf(): Promise<Map<string, string>> {
  await sweepDeadSandboxes();
  const users = new Map<string, string>();
  for (const { name, manifest } of await readSnapshots()) {
    if (manifest.image !== undefined) users.set(manifest.image.root, `the snapshot "${name}"`);
  }
  for (const [root, names] of await pinsBelow(sandboxesPath())) {
    users.set(root, names.map((name) => `the sandbox "${name}"`).join(', '));
  }
  return users;
}

/** The caller holds the store. Names first: what has none is found by nobody. */
async function forget(digests: readonly string[], refs: Map<string, string>): Promise<Removed> {
  const going = new Set(digests);
  const references = [...refs].flatMap(([name, digest]) => (going.has(digest) ? [name] : []));
  for (const reference of references) await deleteRef(reference);
  for (const digest of digests) await deleteImage(digest);
  return { references, digests: [...digests], freedBytes: await sweepContent() };
}

/** Removes what belongs to no image. */
async function sweepContent(): Promise<number> {
  if (await isPullRunning()) return 0;
  const images = await loadImages();
  const users = await usersOf();
  const blobs = new Set(
    images.flatMap(({ record }) => record.layers.map(({ digest }) => hexOf(digest))),
  );
  const roots = new Set([...images.map(({ record }) => record.root), ...users.keys()]);
  const ofBlobs = await sweepFolder('blobs', (name) => blobs.has(name));
  const ofRoots = await sweepFolder('roots', (name) => roots.has(name.replace(ROOT_SUFFIX, '')));
  return ofBlobs + ofRoots;
}

/** What it fetched belongs to no image yet. */
async function isPullRunning(): Promise<boolean> {
  const folder = await storeFolder('pulls');
  let running = false;
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    const lock = await FileLock.tryAcquire(path);
    if (lock === undefined) {
      running = true;
      continue;
    }
    // Of a process that died.
    await unlink(path).catch(ignore('ENOENT'));
    await lock.release();
  }
  return running;
}

async function sweepFolder(
  folder: StoreFolder,
  isUsed: (name: string) => boolean,
): Promise<number> {
  const directory = await storeFolder(folder);
  let freed = 0;
  for (const name of await readdir(directory)) {
    if (isUsed(name)) continue;
    const path = join(directory, name);
    try {
      const { blocks } = await stat(path);
      await rm(path, { force: true });
      freed += blocks * 512;
    } catch (cause) {
      throw storeWriteError('remove', path, cause);
    }
  }
  return freed;
}
