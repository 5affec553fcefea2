/**
 * The writable layer of a sandbox: a sparse file made from a compact template
 * of a formatted file system. guest/upper/pack.mjs writes the templates.
 */
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { EmbervmError, HostError } from '../errors.js';
import { findAsset } from '../native/assets.js';
import { stateError } from './home.js';

/** Its name in the directory of a sandbox, a template or a snapshot. */
export const UPPER_FILE = 'upper.ext4';

const MIB = 1024 * 1024;
const MAGIC = 'EMBSPRS1';
/** Magic, u64 image bytes, u32 extent count. */
const HEADER_BYTES = 20;
/** u64 offset, u32 length. */
const EXTENT_BYTES = 12;
/** Both are far above what a template needs; they bound what a broken one can make us do. */
const MAX_EXTENTS = 65_536;
const MAX_TEMPLATE_BYTES = 64 * MIB;
const OWNER_ONLY = 0o600;
/** Size of the template that needs no growing. */
const DEFAULT_MIB = 4096;

export interface UpperDisk {
  path: string;
  /** The file system is smaller than the disk: the guest grows it. */
  grow: boolean;
}

interface Extent {
  offset: number;
  data: Uint8Array;
}

interface Template {
  imageBytes: number;
  extents: Extent[];
}

export interface DiskOptions {
  /** Sync it: it is of use to somebody after a crash of the host. */
  durable?: boolean;
}

/** Makes `path`, which must not exist, as a disk of `sizeMib`. */
export async function createUpperDisk(
  path: string,
  sizeMib: number,
  options: DiskOptions = {},
): Promise<UpperDisk> {
  return createDiskFrom(await upperTemplate(sizeMib), path, sizeMib, options);
}

/** What a disk of `sizeMib` is made from. */
export function upperTemplate(sizeMib: number): Promise<string> {
  return findAsset(sizeMib >= DEFAULT_MIB ? 'upper' : 'upperSmall');
}

/** Makes a disk of `sizeMib` from the template at `source`. */
export async function createDiskFrom(
  source: string,
  path: string,
  sizeMib: number,
  options: DiskOptions = {},
): Promise<UpperDisk> {
  const template = await readTemplate(source);
  const diskBytes = sizeMib * MIB;
  if (template.imageBytes > diskBytes) {
    throw invalid(source, `its image of ${template.imageBytes} bytes is larger than the disk`);
  }
  try {
    await writeDisk(path, template, diskBytes, options.durable ?? false);
  } catch (error) {
    throw error instanceof EmbervmError ? error : stateError('write', path, error);
  }
  return { path, grow: template.imageBytes < diskBytes };
}

async function writeDisk(
  path: string,
  template: Template,
  diskBytes: number,
  durable: boolean,
): Promise<void> {
  const file = await open(path, 'wx', OWNER_ONLY);
  try {
    await file.truncate(diskBytes);
    for (const { offset, data } of template.extents) await writeAll(file, data, offset);
    if (durable) await file.datasync();
  } catch (error) {
    await unlink(path).catch(() => {});
    throw error;
  } finally {
    await file.close();
  }
}

async function writeAll(file: FileHandle, data: Uint8Array, offset: number): Promise<void> {
  let done = 0;
  while (done < data.length) {
    const { bytesWritten } = await file.write(data, done, data.length - done, offset + done);
    done += bytesWritten;
  }
}

async function readTemplate(source: string): Promise<Template> {
  const file = await open(source, 'r').catch((cause: NodeJS.ErrnoException) => {
    throw invalid(source, cause.code ?? cause.message, cause);
  });
  try {
    const { size } = await file.stat();
    if (size > MAX_TEMPLATE_BYTES) throw invalid(source, `it has ${size} bytes`);
    return parseTemplate(await file.readFile(), source);
  } finally {
    await file.close();
  }
}

/** Checks everything that a truncated or foreign file could get wrong. */
export function parseTemplate(bytes: Buffer, source: string): Template {
  if (bytes.length < HEADER_BYTES || bytes.toString('latin1', 0, MAGIC.length) !== MAGIC) {
    throw invalid(source, 'it does not begin with the magic');
  }
  const imageBytes = Number(bytes.readBigUInt64LE(8));
  const count = bytes.readUInt32LE(16);
  if (!Number.isSafeInteger(imageBytes)) throw invalid(source, 'its image size is absurd');
  if (count > MAX_EXTENTS) throw invalid(source, `it claims ${count} extents`);
  let dataAt = HEADER_BYTES + count * EXTENT_BYTES;
  if (dataAt > bytes.length) throw invalid(source, 'it ends within its list of extents');
  const extents: Extent[] = [];
  let end = 0;
  for (let index = 0; index < count; index += 1) {
    const at = HEADER_BYTES + index * EXTENT_BYTES;
    const offset = Number(bytes.readBigUInt64LE(at));
    const length = bytes.readUInt32LE(at + 8);
    if (!Number.isSafeInteger(offset) || offset < end) throw invalid(source, 'extents overlap');
    end = offset + length;
    if (end > imageBytes) throw invalid(source, 'an extent lies outside the image');
    if (dataAt + length > bytes.length) throw invalid(source, 'it ends within its data');
    extents.push({ offset, data: bytes.subarray(dataAt, dataAt + length) });
    dataAt += length;
  }
  if (dataAt !== bytes.length) throw invalid(source, 'bytes follow its data');
  return { imageBytes, extents };
}

function invalid(source: string, why: string, cause?: unknown): HostError {
  return new HostError(
    'ERR_ASSET_INVALID',
    `${source} is no template of a writable layer: ${why}. In a checkout, run "npm run setup"; ` +
      'otherwise install the package again',
    { cause, context: { path: source } },
  );
}
