/** From a source to an image that sandboxes can start from. */
import { randomUUID } from 'node:crypto';
import { rename, rm, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { PullPolicy } from '../../config/image.js';
import { abortedError } from '../../errors.js';
import { CacheDir } from '../../state/cache-dir.js';
import { isMissing, syncDirectory } from '../../state/durable.js';
import { FileLock } from '../../state/lock.js';
import { buildImage } from '../build-image.js';
import type { ImageContents, ImageSource, LayerDescriptor } from '../source.js';
import { type FetchContext, fetchBlob, type UnpackedLayer, unpackBlob } from './blobs.js';
import { imageNotFound, storeWriteError } from './errors.js';
import { parseImageConfig } from './image-config.js';
import { withLock, withStore } from './mutex.js';
import { blobPath, hashOf, hexOf, isDigest, rootKeyOf, rootPath, storeFolder } from './places.js';
import { LayerProgress, type OnImageProgress } from './progress.js';
import { loadImage, loadRef, type StoredImage, saveImage, saveRef, touchImage } from './records.js';

/** Of one image at a time: more only share the same line. */
const PARALLEL_LAYERS = 3;
/** Of all layers: what native/image takes of files, and a fifth more for headers and padding. */
const MAX_UNPACKED_BYTES: number = 12 * 2 ** 30;

export interface PullRequest {
  /** What the caller calls it. */
  reference: string;
  /** By which it is found again; `undefined`: the source is asked each time. */
  name: string | undefined;
  /** Also by the name that the source has for it. */
  ownName?: boolean;
  policy: PullPolicy;
  open: () => Promise<ImageSource>;
  report: OnImageProgress;
  signal: AbortSignal | undefined;
}

/** The image of a name, pulled where the policy says so. */
export async function pull(request: PullRequest): Promise<StoredImage> {
  const { reference, name, policy, signal } = request;
  if (signal?.aborted) throw abortedError(signal, 'pulling an image');
  const look = async (): Promise<StoredImage | undefined> =>
    policy === 'always' || name === undefined ? undefined : findByName(name);
  const known = await look();
  if (known !== undefined) return found(request, known);
  if (policy === 'never') {
    throw imageNotFound(reference, "pullPolicy is 'never'. Pull it, or choose another pullPolicy");
  }
  // Whoever wants the same at the same moment finds it when it is there.
  return withLock(`pull-${hashOf(name ?? reference)}`, signal, async () => {
    const since = await look();
    return since === undefined ? pullNow(request) : found(request, since);
  });
}

export async function findByName(name: string): Promise<StoredImage | undefined> {
  const digest = isDigest(name) ? name : await loadRef(name);
  return digest === undefined ? undefined : loadImage(digest);
}

function found({ reference, report }: PullRequest, image: StoredImage): StoredImage {
  const { digest } = image.record;
  // Nobody waits for it.
  touchImage(digest).catch(() => {});
  report({ type: 'done', reference, digest, cached: true });
  return image;
}

async function pullNow(request: PullRequest): Promise<StoredImage> {
  const { reference, name, report, signal } = request;
  report({ type: 'resolving', reference });
  const source = await request.open();
  try {
    const contents = await source.resolve({ signal });
    const digest = contents.manifestDigest;
    const bytes = contents.layers.reduce((sum, { size }) => sum + size, 0);
    report({
      type: 'resolved',
      reference,
      digest,
      layers: contents.layers.length,
      totalBytes: bytes,
    });
    const release = await announcePull();
    try {
      const known = await loadImage(digest);
      if (known === undefined) await store(contents, source, request);
      if (name !== undefined) await saveRef(name, digest);
      if (request.ownName && contents.reference !== null) {
        await saveRef(contents.reference, digest);
      }
      const image = await loadImage(digest);
      if (image === undefined) throw imageNotFound(reference, 'it was removed meanwhile');
      if (known !== undefined) await touchImage(digest);
      report({ type: 'done', reference, digest, cached: known !== undefined });
      return image;
    } finally {
      await release();
    }
  } finally {
    await source.close();
  }
}

/** Until it is released, what belongs to no image may be on its way to one. */
async function announcePull(): Promise<() => Promise<void>> {
  return withStore(async () => {
    const path = join(await storeFolder('pulls'), randomUUID());
    const lock = await FileLock.tryAcquire(path).catch((cause: unknown) => {
      throw storeWriteError('lock', path, cause);
    });
    return async () => {
      await unlink(path).catch(() => {});
      await lock?.release();
    };
  });
}

async function store(
  contents: ImageContents,
  source: ImageSource,
  { report, signal }: PullRequest,
): Promise<void> {
  const { manifestDigest: digest, configDigest, layers } = contents;
  // Before anything is fetched: what cannot be used need not be.
  parseImageConfig(contents.config, configDigest);
  const root = rootKeyOf(layers.map(({ diffId }) => diffId));
  const scratch = await CacheDir.make();
  try {
    const context = { source, scratch: scratch.path, signal };
    const unpackedBytes = await withLock(`root-${root}`, signal, async () => {
      const there = await sizeOf(rootPath(root));
      const tars = await fetchLayers(layers, context, report, there === undefined);
      if (there === undefined) {
        report({ type: 'converting', digest, totalBytes: sum(tars.map(({ bytes }) => bytes)) });
        await buildRoot(
          root,
          tars.map(({ path }) => path),
          scratch.path,
          signal,
        );
      }
      return tars.map(({ bytes }) => bytes);
    });
    await saveImage({
      digest,
      configDigest,
      manifest: base64(contents.manifest),
      config: base64(contents.config),
      layers: layers.map(({ digest: blob, size, mediaType, diffId }, index) => {
        return { digest: blob, size, mediaType, diffId, unpackedBytes: unpackedBytes[index] ?? 0 };
      }),
      root,
      rootBytes: (await sizeOf(rootPath(root))) ?? 0,
      pulledAt: Date.now(),
    });
  } finally {
    await scratch.remove();
  }
}

/** All blobs, and what they unpack to: a few at a time, each one once. */
async function fetchLayers(
  layers: readonly LayerDescriptor[],
  context: FetchContext,
  report: OnImageProgress,
  asFiles: boolean,
): Promise<UnpackedLayer[]> {
  const failed = new AbortController();
  const signal =
    context.signal === undefined ? failed.signal : AbortSignal.any([context.signal, failed.signal]);
  const distinct = [...new Map(layers.map((layer) => [layer.digest, layer])).values()];
  const done = new Map<string, UnpackedLayer>();
  const waiting = distinct.values();
  let left = MAX_UNPACKED_BYTES;
  const work = async (): Promise<void> => {
    for (const layer of waiting) {
      const progress = new LayerProgress(report, layer.digest, layer.size);
      const path = asFiles ? join(context.scratch, `${hexOf(layer.digest)}.tar`) : undefined;
      const fetched = await fetchBlob(layer, { ...context, signal }, progress);
      const unpack = (): Promise<UnpackedLayer> => unpackBlob(layer, path, left, signal);
      const tar = fetched
        ? await unpack()
        : await unpack().catch(async (error: unknown) => {
            if (!isDamage(error)) throw error;
            await rm(blobPath(layer.digest), { force: true });
            await fetchBlob(layer, { ...context, signal }, progress);
            return unpack();
          });
      left -= tar.bytes;
      done.set(layer.digest, tar);
      progress.done(!fetched);
    }
  };
  const workers = Array.from({ length: PARALLEL_LAYERS }, () =>
    work().catch((error: unknown) => {
      // The others would only work in vain.
      failed.abort(error);
      throw error;
    }),
  );
  const ends = await Promise.allSettled(workers);
  if (context.signal?.aborted) throw abortedError(context.signal, 'pulling an image');
  if (failed.signal.aborted) throw failed.signal.reason;
  if (ends.some(({ status }) => status === 'rejected')) throw new Error('a layer was lost');
  return layers.flatMap(({ digest }) => done.get(digest) ?? []);
}

/** It lay in the store, and is not what it was when it came. */
function isDamage(error: unknown): boolean {
  const { code } = error as { code?: unknown };
  return code === 'ERR_IMAGE_DIGEST' || code === 'ERR_IMAGE_INVALID';
}

async function buildRoot(
  key: string,
  layers: readonly string[],
  scratch: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const path = rootPath(key);
  const incoming = join(scratch, 'root.erofs');
  await storeFolder('roots');
  await buildImage({ layers, path: incoming, signal });
  try {
    await rename(incoming, path);
    await syncDirectory(dirname(path));
  } catch (cause) {
    throw storeWriteError('store', path, cause);
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw storeWriteError('look at', path, error);
  }
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64');
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}
