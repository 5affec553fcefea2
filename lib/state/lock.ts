/** A lock that the kernel drops when its process ends, however that ends. */
import { constants } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { fromNative } from '../errors.js';
import { loadBinding } from '../native/binding.js';

const OWNER_ONLY = 0o600;
const MARK = 'kept\n';

export class FileLock {
  readonly #file: FileHandle;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /**
   * Locks the file at `path`, which is made when it is missing; `undefined` when somebody else
   * has it. Rejects with ENOENT when there is no directory for it.
   */
  static async tryAcquire(path: string): Promise<FileLock | undefined> {
    for (;;) {
      const file = await open(path, constants.O_RDWR | constants.O_CREAT, OWNER_ONLY);
      try {
        if (!call(() => loadBinding().lockFile(file.fd))) {
          await file.close();
          return undefined;
        }
        // Whoever had it may have removed the file: a lock on what has no name locks nothing.
        if (await isAt(file, path)) return new FileLock(file);
      } catch (error) {
        await file.close();
        throw error;
      }
      await file.close();
    }
  }

  /** Writes down that what the lock guards is to outlive its holder. */
  async mark(): Promise<void> {
    await this.#file.write(MARK, 0);
    await this.#file.sync();
  }

  /** Whether anybody who held the lock has marked it. */
  async isMarked(): Promise<boolean> {
    return (await this.#file.stat()).size > 0;
  }

  async release(): Promise<void> {
    await this.#file.close();
  }
}

/** Whether somebody holds the lock at `path`, this process included. */
export async function isLocked(path: string): Promise<boolean> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
  try {
    return call(() => loadBinding().isFileLocked(file.fd));
  } finally {
    await file.close();
  }
}

async function isAt(file: FileHandle, path: string): Promise<boolean> {
  try {
    const [ours, there] = await Promise.all([file.stat(), stat(path)]);
    return ours.ino === there.ino && ours.dev === there.dev;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}

function call<Value>(run: () => Value): Value {
  try {
    return run();
  } catch (error) {
    throw fromNative(error);
  }
}
