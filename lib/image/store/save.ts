/** Images as archives: of `docker save`, or in the OCI layout. What is written was verified. */
import { createHash, randomUUID } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { abortedError, EmbervmError, ImageError } from '../../errors.js';
import { syncDirectory } from '../../state/durable.js';
import { packingOfFile } from './blobs.js';
import { unpacked } from './decompress.js';
import { badBlob, storeWriteError } from './errors.js';
import { blobPath, hexOf } from './places.js';
import type { StoredImage, StoredLayer } from './records.js';
import { TarWriter, writeAll } from './tar-writer.js';

const MODE = 0o644;
const REF_NAME = 'org.opencontainers.image.ref.name';
const IMAGE_NAME = 'io.containerd.image.name';
const INDEX_TYPE = 'application/vnd.oci.image.index.v1+json';
const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';

export interface SaveRequest {
  path: string;
  format: 'docker' | 'oci';
  /** `name:tag`, as archives have them. */
  names: readonly { name: string; tag: string }[];
  signal?: AbortSignal | undefined;
}

/** What is at `path` is replaced, when the archive is complete. */
export async function saveArchive(image: StoredImage, request: SaveRequest): Promise<void> {
  const { format, signal } = request;
  const path = resolve(request.path);
  const incoming = `${path}.tmp-${randomUUID()}`;
  try {
    const file = await open(incoming, 'wx', MODE);
    try {
      const tar = new TarWriter(async (bytes) => {
        if (signal?.aborted) throw abortedError(signal, 'saving an image');
        await writeAll(file, bytes);
      });
      await (format === 'docker' ? writeDocker : writeOci)(tar, image, request);
      await tar.end();
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(incoming, path);
    await syncDirectory(dirname(path));
  } catch (error) {
    throw saveError(image, path, error);
  } finally {
    await rm(incoming, { force: true });
  }
}

async function writeDocker(
  tar: TarWriter,
  { record }: StoredImage,
  { names }: SaveRequest,
): Promise<void> {
  const config = `${hexOf(record.configDigest)}.json`;
  const layerName = ({ diffId }: StoredLayer): string => `${hexOf(diffId)}.tar`;
  await addBytes(tar, config, Buffer.from(record.config, 'base64'));
  const distinct = new Map(record.layers.map((layer) => [layer.diffId, layer]));
  for (const layer of distinct.values()) {
    const { digest, diffId, unpackedBytes: size } = layer;
    const blob = blobPath(digest);
    const content = verified(unpacked(blob, await packingOfFile(blob)), digest, diffId);
    await tar.add({ path: layerName(layer), type: 'file', mode: MODE, size }, content);
  }
  const RepoTags = names.map(({ name, tag }) => `${name}:${tag}`);
  const Layers = record.layers.map(layerName);
  await addJson(tar, 'manifest.json', [{ Config: config, RepoTags, Layers }]);
}

async function writeOci(
  tar: TarWriter,
  { record }: StoredImage,
  { names }: SaveRequest,
): Promise<void> {
  await addJson(tar, 'oci-layout', { imageLayoutVersion: '1.0.0' });
  const manifest = Buffer.from(record.manifest, 'base64');
  const descriptor = {
    mediaType: mediaTypeOf(manifest),
    digest: record.digest,
    size: manifest.length,
  };
  // One for each name: an annotation has room for one.
  const manifests = names.map(({ name, tag }) => {
    return { ...descriptor, annotations: { [IMAGE_NAME]: `${name}:${tag}`, [REF_NAME]: tag } };
  });
  await addJson(tar, 'index.json', {
    schemaVersion: 2,
    mediaType: INDEX_TYPE,
    manifests: manifests.length > 0 ? manifests : [descriptor],
  });
  const blobName = (digest: string): string => `blobs/sha256/${hexOf(digest)}`;
  await addBytes(tar, blobName(record.digest), manifest);
  await addBytes(tar, blobName(record.configDigest), Buffer.from(record.config, 'base64'));
  const distinct = new Map(record.layers.map((layer) => [layer.digest, layer]));
  for (const { digest, size } of distinct.values()) {
    const content = verified(unpacked(blobPath(digest), 'none'), digest, digest);
    await tar.add({ path: blobName(digest), type: 'file', mode: MODE, size }, content);
  }
}

/** Docker's manifests have a type of their own. */
function mediaTypeOf(manifest: Buffer): string {
  const { mediaType } = JSON.parse(manifest.toString('utf8')) as { mediaType?: unknown };
  return typeof mediaType === 'string' ? mediaType : MANIFEST_TYPE;
}

/** The bytes as they are, and an error after the last one where they are others than they were. */
async function* verified(
  bytes: AsyncIterable<Uint8Array>,
  blob: string,
  wanted: string,
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  for await (const chunk of bytes) {
    hash.update(chunk);
    yield chunk;
  }
  const actual = `sha256:${hash.digest('hex')}`;
  if (actual !== wanted) throw badBlob('ERR_IMAGE_DIGEST', blob, `its digest is ${actual}`);
}

function addBytes(tar: TarWriter, path: string, bytes: Uint8Array): Promise<void> {
  return tar.add({ path, type: 'file', mode: MODE, size: bytes.length }, once(bytes));
}

function addJson(tar: TarWriter, path: string, value: unknown): Promise<void> {
  return addBytes(tar, path, Buffer.from(JSON.stringify(value)));
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

function saveError({ record }: StoredImage, path: string, error: unknown): EmbervmError {
  if (error instanceof EmbervmError) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code === 'ENOENT' && syscall === 'open' && (error as NodeJS.ErrnoException).path !== path) {
    const { path: missing = '' } = error as NodeJS.ErrnoException;
    if (missing.includes('/blobs/')) {
      return new ImageError(
        'ERR_IMAGE_READ',
        `the image ${record.digest} cannot be saved: ${missing} was removed. Pull it again`,
        { cause: error, errno: code, syscall, context: { path: missing } },
      );
    }
  }
  return storeWriteError('write', path, error);
}
