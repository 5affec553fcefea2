/**
 * Directories and files below one of this host, while a guest may change all of it. Node has no
 * `openat`, but `/proc/self/fd` is one: each name is looked up in a directory that is open, and no
 * symbolic link is ever followed, so nothing leads out, whatever is renamed or linked meanwhile.
 */
import { constants, type Stats } from 'node:fs';
import { type FileHandle, lstat, mkdir, open, readdir, rmdir, unlink } from 'node:fs/promises';
import { ConfigError, FileError } from '../errors.js';
import { type FileOperation, fileError, hostFileError } from '../state/file-errors.js';

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
const DEFAULT_DIRECTORY = 0o755;
/** Directories that are open at once, each in the one before. */
const MAX_DEPTH = 128;
const BLOCK = 512;

/** The names of a path, `/a/b` or `a/b`. */
export function namesOf(path: unknown): string[] {
  if (typeof path !== 'string' || path.includes('\0')) {
    throw new ConfigError(
      'ERR_INVALID_CONFIG',
      'invalid file operation: a path in a volume is text without NUL bytes',
      { context: { option: 'path' } },
    );
  }
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  if (!names.includes('..')) return names;
  throw escapes(path, 'has ".." in it, which leads nowhere in a volume');
}

/** A directory that is open, below the one at the top. */
export class TreeDirectory {
  readonly #handle: FileHandle;
  /** For messages. */
  readonly path: string;

  private constructor(handle: FileHandle, path: string) {
    this.#handle = handle;
    this.path = path;
  }

  /** The directory that `names` lead to; what is missing of them is made with `make`. */
  static async open(
    root: string,
    names: readonly string[],
    verb: string,
    make = false,
  ): Promise<TreeDirectory> {
    const top = await open(root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    let directory = new TreeDirectory(top, '/');
    for (const name of names) {
      const above = directory;
      try {
        if (make) await above.make(name, DEFAULT_DIRECTORY);
        directory = await above.enter(name, verb);
      } finally {
        await above.close();
      }
    }
    return directory;
  }

  /** For calls that take a path: its last name is in this directory, and is not followed. */
  at(name: string): string {
    return `/proc/self/fd/${this.#handle.fd}/${name}`;
  }

  shown(name: string): string {
    return this.path === '/' ? `/${name}` : `${this.path}/${name}`;
  }

  async enter(name: string, verb: string): Promise<TreeDirectory> {
    const path = this.shown(name);
    try {
      const handle = await open(this.at(name), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      return new TreeDirectory(handle, path);
    } catch (error) {
      throw await this.#explain(name, { verb, path }, error);
    }
  }

  /** A regular file, and nothing else. */
  async openFile(name: string, flags: number, mode: number, verb: string): Promise<FileHandle> {
    const operation = { verb, path: this.shown(name) };
    let file: FileHandle;
    try {
      file = await open(this.at(name), flags | O_NOFOLLOW | O_NONBLOCK, mode);
    } catch (error) {
      throw await this.#explain(name, operation, error);
    }
    try {
      const stats = await file.stat();
      if (stats.isFile()) return file;
      throw fileError(operation, stats.isDirectory() ? 'EISDIR' : 'ENXIO', 'open');
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async describe(name: string, verb: string): Promise<Stats> {
    const path = this.shown(name);
    return onHost({ verb, path }, lstat(this.at(name)));
  }

  describeItself(): Promise<Stats> {
    return this.#handle.stat();
  }

  /** False where there is something of this name already. */
  async make(name: string, mode: number): Promise<boolean> {
    const operation = { verb: 'make', path: this.shown(name) };
    try {
      await mkdir(this.at(name), mode);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
      throw hostFileError(operation, error);
    }
  }

  names(): Promise<string[]> {
    return readdir(`/proc/self/fd/${this.#handle.fd}`);
  }

  /** Removes a file, or a directory; with `recursive` also one that has something in it. */
  async remove(name: string, recursive: boolean, depth = 0): Promise<void> {
    const operation = { verb: 'remove', path: this.shown(name) };
    try {
      await unlink(this.at(name));
      return;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'EISDIR' && code !== 'EPERM') throw hostFileError(operation, error);
    }
    if (recursive) await this.#empty(name, depth);
    await onHost(operation, rmdir(this.at(name)));
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #empty(name: string, depth: number): Promise<void> {
    if (depth > MAX_DEPTH) throw tooDeep(this.shown(name));
    const directory = await this.enter(name, 'remove');
    try {
      for (const below of await directory.names()) await directory.remove(below, true, depth + 1);
    } finally {
      await directory.close();
    }
  }

  async #explain(name: string, operation: FileOperation, error: unknown): Promise<unknown> {
    const stats = await lstat(this.at(name)).catch(() => undefined);
    if (stats?.isSymbolicLink() !== true) return hostFileError(operation, error);
    return escapes(operation.path, 'is a symbolic link, and none is followed on this host');
  }
}

/** What a directory takes on the disk with all below it; each file once. */
export async function usedBytes(root: string): Promise<number> {
  const seen = new Set<string>();
  let bytes = 0;
  const pending: string[][] = [[]];
  for (let names = pending.pop(); names !== undefined; names = pending.pop()) {
    const directory = await TreeDirectory.open(root, names, 'read').catch(goneMeanwhile);
    if (directory === undefined) continue;
    try {
      for (const name of await directory.names()) {
        const stats = await directory.describe(name, 'read').catch(goneMeanwhile);
        if (stats === undefined) continue;
        if (stats.isDirectory()) pending.push([...names, name]);
        const identity = `${stats.dev}:${stats.ino}`;
        if (stats.nlink > 1 && !stats.isDirectory() && seen.has(identity)) continue;
        seen.add(identity);
        bytes += stats.blocks * BLOCK;
      }
    } finally {
      await directory.close();
    }
  }
  return bytes;
}

async function onHost<Value>(operation: FileOperation, result: Promise<Value>): Promise<Value> {
  try {
    return await result;
  } catch (error) {
    throw hostFileError(operation, error);
  }
}

function goneMeanwhile(error: unknown): undefined {
  if (error instanceof FileError) return undefined;
  throw error;
}

function escapes(path: string, why: string): FileError {
  return new FileError('ERR_FILE_ESCAPE', `the path ${JSON.stringify(path)} ${why}`, {
    path,
    context: { path },
  });
}

function tooDeep(path: string): FileError {
  return new FileError(
    'ERR_FILE_LIMIT',
    `cannot remove ${JSON.stringify(path)}: there are more than ${MAX_DEPTH} directories in each other`,
    { path, context: { path, maxDepth: MAX_DEPTH } },
  );
}
