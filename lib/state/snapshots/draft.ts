/**
 * A snapshot that is being made. Its files are gathered in a directory that does not count; then
 * they move below the snapshot's name, and the rename of the manifest, which says where they are,
 * is what makes it one. Until then the one before stays good, after it its files are removed.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { EmbervmError } from '../../errors.js';
import { ignore, isMissing, syncDirectory, writeDurably } from '../durable.js';
import { Claim, snapshotsDirectory, sweepSnapshots } from './claims.js';
import { snapshotBusy, snapshotExists, snapshotWriteError } from './errors.js';
import {
  DISK_FILE,
  MACHINE_DIRECTORY,
  MANIFEST_VERSION,
  type SnapshotFile,
  type SnapshotManifest,
} from './manifest.js';
import { digestOf } from './sparse-stream.js';

export const MANIFEST_FILE = 'snapshot.json';
const NEW_MANIFEST = '.snapshot.json';
const OWNER_ONLY = 0o700;

export type SnapshotFacts = Omit<SnapshotManifest, 'version' | 'files'>;

export class SnapshotDraft {
  readonly name: string;
  readonly #claim: Claim;
  readonly #directory: string;

  private constructor(name: string, claim: Claim, directory: string) {
    this.name = name;
    this.#claim = claim;
    this.#directory = directory;
  }

  /** Ends with `commit` or `abandon`. One writer of a name at a time. */
  static async begin(name: string, options: { replace: boolean }): Promise<SnapshotDraft> {
    await sweepSnapshots();
    const claim = await Claim.tryAcquire(name);
    if (claim === undefined) throw snapshotBusy(name);
    try {
      if (!options.replace && (await isThere(join(snapshotsDirectory(), name)))) {
        throw snapshotExists(name);
      }
      return new SnapshotDraft(name, claim, await claim.stage());
    } catch (error) {
      await claim.release();
      throw error;
    }
  }

  /** For `Machine.snapshot`. */
  get machine(): string {
    return join(this.#directory, MACHINE_DIRECTORY);
  }

  get disk(): string {
    return join(this.#directory, DISK_FILE);
  }

  /** Where a file of the manifest is to be. */
  pathOf(file: string): string {
    return join(this.#directory, file);
  }

  /** Digests of the files that were gathered. */
  async describe(signal?: AbortSignal): Promise<SnapshotFile[]> {
    const machine = await readdir(this.machine).catch((error: unknown) => {
      if (isMissing(error)) return [];
      throw error;
    });
    const paths = [DISK_FILE, ...machine.sort().map((name) => `${MACHINE_DIRECTORY}/${name}`)];
    const files: SnapshotFile[] = [];
    for (const path of paths) files.push({ path, ...(await digestOf(this.pathOf(path), signal)) });
    return files;
  }

  /** The files are on the disk by now. To be abandoned where this throws. */
  async commit(facts: SnapshotFacts, files: SnapshotFile[]): Promise<SnapshotManifest> {
    const path = join(snapshotsDirectory(), this.name);
    const manifest: SnapshotManifest = { version: MANIFEST_VERSION, ...facts, files };
    const generation = randomUUID();
    try {
      await mkdir(path, { mode: OWNER_ONLY }).catch(ignore('EEXIST'));
      await syncDirectory(this.machine);
      await syncDirectory(this.#directory);
      await rename(this.#directory, join(path, generation));
      await rm(join(path, NEW_MANIFEST), { force: true });
      await writeDurably(join(path, NEW_MANIFEST), JSON.stringify({ generation, manifest }));
      await rename(join(path, NEW_MANIFEST), join(path, MANIFEST_FILE));
      await syncDirectory(path);
      await syncDirectory(snapshotsDirectory());
    } catch (cause) {
      // Without the manifest nothing of it counts.
      await rm(join(path, generation), { recursive: true, force: true }).catch(() => {});
      throw cause instanceof EmbervmError ? cause : snapshotWriteError('write', path, cause);
    }
    await removeOthers(path, generation).catch(() => {});
    await this.#claim.release();
    return manifest;
  }

  async abandon(): Promise<void> {
    await this.#claim.release();
  }
}

/** Generations of before, and of writers that were killed. */
async function removeOthers(path: string, generation: string): Promise<void> {
  for (const name of await readdir(path)) {
    if (name === generation || name === MANIFEST_FILE) continue;
    await rm(join(path, name), { recursive: true, force: true });
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    return (await readdir(path)).includes(MANIFEST_FILE);
  } catch (error) {
    if (isMissing(error)) return false;
    throw snapshotWriteError('look into', path, error);
  }
}
