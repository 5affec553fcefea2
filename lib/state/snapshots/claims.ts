/**
 * Who may write below `snapshots/`. What begins with a dot is somebody's for as long as they hold
 * `.lock-<id>`, which the kernel drops with their process: `.new-<name>` is on its way to become a
 * snapshot, `.use-<id>` are links to the files of one. `.old-<id>` is nobody's any more.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureDirectory, homeDirectory } from '../home.js';
import { FileLock } from '../lock.js';
import { snapshotWriteError } from './errors.js';

const LOCK = '.lock-';
const STAGING = '.new-';
const USED = '.use-';
const OUTGOING = '.old-';
const OWNER_ONLY = 0o700;

export function snapshotsDirectory(): string {
  return join(homeDirectory(), 'snapshots');
}

/** What nobody else writes to, and a directory that is gone when it is released. */
export class Claim {
  readonly id: string;
  readonly #root: string;
  readonly #lock: FileLock;

  private constructor(root: string, id: string, lock: FileLock) {
    this.#root = root;
    this.id = id;
    this.#lock = lock;
  }

  /** `undefined` when somebody else has it. */
  static async tryAcquire(id: string): Promise<Claim | undefined> {
    const root = snapshotsDirectory();
    try {
      await ensureDirectory(root);
      const lock = await FileLock.tryAcquire(join(root, LOCK + id));
      return lock === undefined ? undefined : new Claim(root, id, lock);
    } catch (cause) {
      throw snapshotWriteError('make', root, cause);
    }
  }

  /** Makes the directory of what is to become a snapshot, empty. */
  async stage(): Promise<string> {
    return this.#make(STAGING);
  }

  /** Makes a directory that is used for a moment. */
  static async scratch(): Promise<{ claim: Claim; path: string }> {
    const claim = await Claim.tryAcquire(randomUUID());
    // Nobody else knows the name.
    if (claim === undefined) throw new Error('a new name was taken');
    try {
      return { claim, path: await claim.#make(USED) };
    } catch (error) {
      await claim.release();
      throw error;
    }
  }

  /** Removes what was made and lets go. What cannot be removed is left to the next sweep. */
  async release(): Promise<void> {
    const made = [STAGING, USED].map((prefix) => join(this.#root, prefix + this.id));
    try {
      for (const path of made) await rm(path, { recursive: true, force: true });
      await unlink(join(this.#root, LOCK + this.id));
    } catch {
      // As said.
    } finally {
      await this.#lock.release();
    }
  }

  async #make(prefix: string): Promise<string> {
    const path = join(this.#root, prefix + this.id);
    try {
      // Of one who was killed; whoever has the lock is the only one now.
      await rm(path, { recursive: true, force: true });
      await mkdir(path, { mode: OWNER_ONLY });
      return path;
    } catch (cause) {
      throw snapshotWriteError('make', path, cause);
    }
  }
}

/** Removes a directory below `snapshots/` so that nobody sees half of it. */
export async function removeWhole(path: string): Promise<void> {
  const outgoing = join(snapshotsDirectory(), `${OUTGOING}${randomUUID()}`);
  await rename(path, outgoing);
  await rm(outgoing, { recursive: true, force: true });
}

/** Removes what dead processes left. Failures are left for next time. */
export async function sweepSnapshots(): Promise<void> {
  const root = snapshotsDirectory();
  const names = await readdir(root).catch(() => []);
  for (const name of names) {
    if (name.startsWith(OUTGOING)) {
      await rm(join(root, name), { recursive: true, force: true }).catch(() => {});
    }
    if (!name.startsWith(LOCK)) continue;
    const claim = await Claim.tryAcquire(name.slice(LOCK.length)).catch(() => undefined);
    await claim?.release();
  }
}
