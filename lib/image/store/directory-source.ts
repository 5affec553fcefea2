/**
 * A directory of this host as an image of one layer. Whatever is in it is read once, into an archive
 * of our own; links are kept as they are and never followed.
 */
import { createHash } from 'node:crypto';
import { constants, createReadStream, type Stats } from 'node:fs';
import { type FileHandle, lstat, open, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { abortedError, EmbervmError, ImageError } from '../../errors.js';
import { CacheDir } from '../../state/cache-dir.js';
import type {
  ImageContents,
  ImageSource,
  LayerDescriptor,
  OpenBlobOptions,
  ResolveOptions,
} from '../source.js';
import type { TarItem, TarType } from './tar-header.js';
import { TarWriter, writeAll } from './tar-writer.js';

const PERMISSIONS = 0o7777;
const CHUNK_BYTES = 1024 * 1024;
const MS_PER_S = 1000;
/** Of Linux: glibc's gnu_dev_major and gnu_dev_minor. */
const LOW_MINOR = 0xff;
const LOW_MAJOR = 0xfff;
const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar';
const CONFIG_TYPE = 'application/vnd.oci.image.config.v1+json';
const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';

export class DirectorySource implements ImageSource {
  readonly #path: string;
  #scratch: CacheDir | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  async resolve(options: ResolveOptions): Promise<ImageContents> {
    this.#scratch ??= await CacheDir.make();
    const { digest, size } = await pack(this.#path, this.#archive, options.signal);
    const config = json({
      architecture: 'amd64',
      os: 'linux',
      config: {},
      rootfs: { type: 'layers', diff_ids: [digest] },
    });
    const configDigest = digestOf(config);
    const manifest = json({
      schemaVersion: 2,
      mediaType: MANIFEST_TYPE,
      config: { mediaType: CONFIG_TYPE, digest: configDigest, size: config.length },
      layers: [{ mediaType: LAYER_TYPE, digest, size }],
    });
    const manifestDigest = digestOf(manifest);
    return {
      reference: null,
      rootDigest: manifestDigest,
      manifestDigest,
      manifest,
      configDigest,
      config,
      layers: [{ digest, size, mediaType: LAYER_TYPE, compression: 'none', diffId: digest }],
    };
  }

  async openBlob(
    _layer: LayerDescriptor,
    options: OpenBlobOptions,
  ): Promise<AsyncIterable<Uint8Array>> {
    return createReadStream(this.#archive, {
      start: options.offset ?? 0,
      highWaterMark: CHUNK_BYTES,
    });
  }

  async close(): Promise<void> {
    await this.#scratch?.remove();
    this.#scratch = undefined;
  }

  get #archive(): string {
    return join(this.#scratch?.path ?? '', 'rootfs.tar');
  }
}

/** The same files make the same archive. */
async function pack(
  root: string,
  archive: string,
  signal: AbortSignal | undefined,
): Promise<{ digest: string; size: number }> {
  const out = await open(archive, 'wx', 0o600);
  const hash = createHash('sha256');
  let size = 0;
  const tar = new TarWriter(async (bytes) => {
    if (signal?.aborted) throw abortedError(signal, 'reading a root directory');
    hash.update(bytes);
    size += bytes.length;
    await writeAll(out, bytes);
  });
  try {
    await addTree(tar, root, '', new Map());
    await tar.end();
  } catch (error) {
    throw readError(root, error);
  } finally {
    await out.close();
  }
  return { digest: `sha256:${hash.digest('hex')}`, size };
}

/** `links` has the first name of each file that has several. */
async function addTree(
  tar: TarWriter,
  root: string,
  relative: string,
  links: Map<string, string>,
): Promise<void> {
  const path = join(root, relative);
  const status = await lstat(path);
  if (relative === '' && !status.isDirectory()) {
    throw Object.assign(new Error('not a directory'), { code: 'ENOTDIR', syscall: 'open' });
  }
  await addOne(tar, path, relative === '' ? './' : relative, status, links);
  if (!status.isDirectory()) return;
  for (const name of (await readdir(path)).sort())
    await addTree(tar, root, join(relative, name), links);
}

async function addOne(
  tar: TarWriter,
  path: string,
  name: string,
  status: Stats,
  links: Map<string, string>,
): Promise<void> {
  const type = typeOf(status);
  // A socket means nothing without whoever listens.
  if (type === undefined) return;
  const item: TarItem = {
    path: type === 'directory' && !name.endsWith('/') ? `${name}/` : name,
    type,
    mode: status.mode & PERMISSIONS,
    uid: status.uid,
    gid: status.gid,
    mtime: Math.floor(status.mtimeMs / MS_PER_S),
  };
  if (type === 'symlink') return tar.add({ ...item, target: await readlink(path) });
  if (type === 'char' || type === 'block') return tar.add({ ...item, device: device(status.rdev) });
  if (type !== 'file') return tar.add(item);
  const id = `${status.dev}:${status.ino}`;
  const first = status.nlink > 1 ? links.get(id) : undefined;
  if (first !== undefined) return tar.add({ ...item, type: 'link', target: first });
  links.set(id, name);
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    // Of the file that is read, whatever has its name by now.
    const { size } = await file.stat();
    await tar.add({ ...item, size }, chunksOf(file));
  } finally {
    await file.close();
  }
}

async function* chunksOf(file: FileHandle): AsyncGenerator<Uint8Array> {
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length);
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
  }
}

function typeOf(status: Stats): TarType | undefined {
  if (status.isFile()) return 'file';
  if (status.isDirectory()) return 'directory';
  if (status.isSymbolicLink()) return 'symlink';
  if (status.isCharacterDevice()) return 'char';
  if (status.isBlockDevice()) return 'block';
  return status.isFIFO() ? 'fifo' : undefined;
}

function device(rdev: number): { major: number; minor: number } {
  return {
    major: (rdev >> 8) & LOW_MAJOR,
    minor: (rdev & LOW_MINOR) | ((rdev >> 12) & ~LOW_MINOR),
  };
}

function readError(path: string, error: unknown): EmbervmError {
  if (error instanceof EmbervmError) return error;
  const { code: errno, syscall, message } = error as NodeJS.ErrnoException;
  const written = syscall === 'write';
  return new ImageError(
    written ? 'ERR_IMAGE_WRITE' : 'ERR_IMAGE_READ',
    `cannot ${written ? 'store' : 'read'} the root directory ${path}: ${errno ?? message}`,
    { cause: error, errno, syscall, context: { path } },
  );
}

function json(value: object): Buffer {
  return Buffer.from(JSON.stringify(value));
}

function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
