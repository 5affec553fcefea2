/**
 * A directory below `cache/` for what is of use to this process alone. It is locked for as long as it
 * is used, so that those of processes that were killed can be told, and removed.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ignore } from './durable.js';
import { ensureDirectory, homeDirectory, stateError } from './home.js';
import { FileLock } from './lock.js';

const LOCK = 'lock';
const OWNER_ONLY = 0o700;

export class CacheDir {
  readonly path: string;
  readonly #lock: FileLock;

  private constructor(path: string, lock: FileLock) {
    this.path = path;
    this.#lock = lock;
  }

  static async make(): Promise<CacheDir> {
    const root = join(homeDirectory(), 'cache');
    try {
      await ensureDirectory(root);
      await sweep(root);
      for (;;) {
        const made = await CacheDir.#tryMake(join(root, randomUUID()));
        if (made !== undefined) return made;
      }
    } catch (cause) {
      throw stateError('make', root, cause);
    }
  }

  /** `undefined` when the sweep of somebody else took it for left over before it was locked. */
  static async #tryMake(path: string): Promise<CacheDir | undefined> {
    await mkdir(path, { mode: OWNER_ONLY });
    const lock = await FileLock.tryAcquire(join(path, LOCK)).catch(async (error: unknown) => {
      await rm(path, { recursive: true, force: true });
      return ignore('ENOENT')(error);
    });
    return lock === undefined ? undefined : new CacheDir(path, lock);
  }

  async remove(): Promise<void> {
    await rm(this.path, { recursive: true, force: true });
    await this.#lock.release();
  }
}

async function sweep(root: string): Promise<void> {
  for (const name of await readdir(root)) {
    const path = join(root, name);
    try {
      const lock = await FileLock.tryAcquire(join(path, LOCK));
      if (lock === undefined) continue;
      await rm(path, { recursive: true, force: true });
      await lock.release();
    } catch {
      // It went away, or is left to the next.
    }
  }
}
