/**
 * Snapshots on disk: `snapshots/<name>/snapshot.json` names the directory beside it that has the
 * files. A snapshot exists as long as that manifest does.
 */
import { link, mkdir, readdir, readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { MachineError } from '../../errors.js';
import { isMissing } from '../durable.js';
import { Claim, removeWhole, snapshotsDirectory } from './claims.js';
import { MANIFEST_FILE } from './draft.js';
import {
  snapshotBusy,
  snapshotInvalid,
  snapshotNotFound,
  snapshotReadError,
  snapshotWriteError,
} from './errors.js';
import {
  DISK_FILE,
  isOtherVersion,
  MACHINE_DIRECTORY,
  MANIFEST_VERSION,
  MAX_MANIFEST_BYTES,
  parseManifest,
  type SnapshotManifest,
} from './manifest.js';
import { digestOf } from './sparse-stream.js';

const GENERATION = /^[0-9a-f-]{36}$/;
/** How often one may be replaced while it is being opened; more than once is unheard of. */
const MAX_REPLACEMENTS = 20;

export interface StoredSnapshot {
  name: string;
  manifest: SnapshotManifest;
  /** Where its files are, until it is replaced or removed. */
  directory: string;
}

/** The files of a snapshot, there until they are released, whatever becomes of the snapshot. */
export interface OpenedSnapshot {
  manifest: SnapshotManifest;
  /** For `Machine.restore`, where there is one. */
  machine: string;
  disk: string;
  pathOf(file: string): string;
  release(): Promise<void>;
}

/** `ERR_SNAPSHOT_NOT_FOUND`, or `ERR_SNAPSHOT_INVALID` for one whose manifest cannot be read. */
export async function readSnapshot(name: string): Promise<StoredSnapshot> {
  const root = join(snapshotsDirectory(), name);
  const path = join(root, MANIFEST_FILE);
  let text: string;
  try {
    if ((await stat(path)).size > MAX_MANIFEST_BYTES) {
      throw snapshotInvalid(name, 'its manifest is larger than any can be', MANIFEST_FILE);
    }
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof MachineError) throw error;
    throw isMissing(error) ? snapshotNotFound(name) : snapshotReadError('read', path, error);
  }
  const { generation, manifest: value } = parseJson(text);
  if (isOtherVersion(value)) throw otherVersion(name);
  const manifest = parseManifest(value);
  if (manifest === undefined || typeof generation !== 'string' || !GENERATION.test(generation)) {
    throw snapshotInvalid(name, 'its manifest is damaged', MANIFEST_FILE);
  }
  return { name, manifest, directory: join(root, generation) };
}

/** Those whose manifests can be read, in no order. */
export async function readSnapshots(): Promise<StoredSnapshot[]> {
  const root = snapshotsDirectory();
  let names: string[];
  try {
    names = await readdir(root);
  } catch (error) {
    if (isMissing(error)) return [];
    throw snapshotReadError('list', root, error);
  }
  const all: StoredSnapshot[] = [];
  for (const name of names) {
    if (name.startsWith('.')) continue;
    const one = await readSnapshot(name).catch((error: unknown) => {
      if (error instanceof MachineError) return undefined;
      throw error;
    });
    if (one !== undefined) all.push(one);
  }
  return all;
}

/** The files as they are now: links to them, which a replacement does not take away. */
export async function openSnapshot(name: string): Promise<OpenedSnapshot> {
  let seen = await readSnapshot(name);
  const { claim, path } = await Claim.scratch();
  try {
    for (let attempt = 1; ; attempt += 1) {
      const directory = join(path, String(attempt));
      const missing = await linkFiles(seen, directory);
      if (missing === undefined) {
        return {
          manifest: seen.manifest,
          machine: join(directory, MACHINE_DIRECTORY),
          disk: join(directory, DISK_FILE),
          pathOf: (file) => join(directory, file),
          release: () => claim.release(),
        };
      }
      const now = await readSnapshot(name);
      if (now.directory === seen.directory || attempt === MAX_REPLACEMENTS) {
        throw snapshotInvalid(name, `its file ${missing} is missing`, missing);
      }
      seen = now;
    }
  } catch (error) {
    await claim.release();
    throw error;
  }
}

/** The first file that is not there; every one has the size that it should have. */
async function linkFiles(from: StoredSnapshot, to: string): Promise<string | undefined> {
  await mkdir(to);
  for (const { path: file, bytes } of from.manifest.files) {
    const target = join(to, file);
    if (dirname(file) !== '.') await mkdir(dirname(target), { recursive: true });
    try {
      await link(join(from.directory, file), target);
    } catch (error) {
      if (isMissing(error)) return file;
      throw snapshotWriteError('link', target, error);
    }
    const { size } = await stat(target);
    if (size !== bytes) {
      throw snapshotInvalid(from.name, `its file ${file} has ${size} bytes, not ${bytes}`, file);
    }
  }
  return undefined;
}

/** Reads everything: `ERR_SNAPSHOT_INVALID` names the file that is not what it was. */
export async function verifySnapshot(name: string, signal?: AbortSignal): Promise<void> {
  const opened = await openSnapshot(name);
  try {
    for (const { path, bytes, storedBytes, sha256 } of opened.manifest.files) {
      const now = await digestOf(opened.pathOf(path), signal);
      if (now.bytes === bytes && now.storedBytes === storedBytes && now.sha256 === sha256) continue;
      throw snapshotInvalid(name, `its file ${path} was changed`, path);
    }
  } finally {
    await opened.release();
  }
}

/** Also one that is damaged. What was made from it goes on. */
export async function removeSnapshot(name: string): Promise<void> {
  const claim = await Claim.tryAcquire(name);
  if (claim === undefined) throw snapshotBusy(name);
  const path = join(snapshotsDirectory(), name);
  try {
    const known = (await readdir(path)).includes(MANIFEST_FILE);
    await removeWhole(path);
    if (!known) throw snapshotNotFound(name);
  } catch (error) {
    if (error instanceof MachineError) throw error;
    throw isMissing(error) ? snapshotNotFound(name) : snapshotWriteError('remove', path, error);
  } finally {
    await claim.release();
  }
}

function parseJson(text: string): { generation?: unknown; manifest?: unknown } {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}

function otherVersion(name: string): MachineError {
  return new MachineError(
    'ERR_SNAPSHOT_VERSION',
    `the snapshot "${name}" has another version than this package reads (${MANIFEST_VERSION}). ` +
      'Take it anew, or use the package that took it',
    { context: { name } },
  );
}
