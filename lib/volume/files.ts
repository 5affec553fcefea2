/** Files of a directory volume, from this host: whether a sandbox uses it or not. */
import { constants } from 'node:fs';
import { type FileHandle, rename } from 'node:fs/promises';
import { Readable, Writable } from 'node:stream';
import {
  type FileOptions,
  type MakeDirectoryOptions,
  parseFileOptions,
  type ReadFileOptions,
  type ReadStreamOptions,
  type RecursiveOptions,
  type WriteFileOptions,
  type WriteStreamOptions,
} from '../config/files.js';
import { abortedError, FileError } from '../errors.js';
import { fileError, hostFileError } from '../state/file-errors.js';
import { namesOf, TreeDirectory } from './tree.js';

const { O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_WRONLY } = constants;
const DEFAULT_FILE = 0o644;
const DEFAULT_DIRECTORY = 0o755;
const PERMISSIONS = 0o7777;
const CHUNK = 64 * 1024;

export interface VolumeFileStat {
  kind: 'file' | 'directory' | 'symlink' | 'other';
  /** In bytes. */
  size: number;
  /** Permission bits, such as `0o644`. */
  mode: number;
  modified: Date;
}

export interface VolumeFileEntry extends VolumeFileStat {
  name: string;
  path: string;
}

/** Where the last name of a path is. */
interface Place {
  directory: TreeDirectory;
  name: string;
}

/**
 * By paths from the top of the volume, `/data/file` or `data/file`. Symbolic links are not followed,
 * and `..` is refused: `ERR_FILE_ESCAPE`. What is written here has no quota.
 */
export class VolumeFiles {
  readonly #root: string;

  /** @internal */
  constructor(root: string) {
    this.#root = root;
  }

  /** `ERR_FILE_LIMIT` for more than `maxBytes`, 256 MiB unless given. */
  async read(path: string, options?: ReadFileOptions): Promise<Uint8Array> {
    const { maxBytes, signal } = parseFileOptions('read', options);
    return this.#withFile(path, O_RDONLY, 'read', signal, async (file) => {
      const chunks: Buffer[] = [];
      let total = 0;
      for (;;) {
        const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(CHUNK), 0, CHUNK);
        if (signal?.aborted) throw abortedError(signal, `reading ${path}`);
        if (bytesRead === 0) return Buffer.concat(chunks, total);
        total += bytesRead;
        if (total > maxBytes) throw tooLong(path, maxBytes);
        chunks.push(buffer.subarray(0, bytesRead));
      }
    });
  }

  async readText(path: string, options?: ReadFileOptions): Promise<string> {
    return Buffer.from(await this.read(path, options)).toString('utf8');
  }

  /** Makes the file, or replaces what is in it. */
  async write(path: string, data: string | Uint8Array, options?: WriteFileOptions): Promise<void> {
    const { mode, exclusive, signal } = parseFileOptions('write', options);
    const flags = O_WRONLY | O_CREAT | (exclusive ? O_EXCL : 0);
    await this.#withFile(path, flags, 'write', signal, async (file) => {
      await file.truncate(0);
      await file.writeFile(data, { signal });
      if (mode !== undefined) await file.chmod(mode);
    });
  }

  /** Behind what the file has, where there is one. */
  async append(path: string, data: string | Uint8Array, options?: FileOptions): Promise<void> {
    const { signal } = parseFileOptions('plain', options);
    const flags = O_WRONLY | O_CREAT | O_APPEND;
    await this.#withFile(path, flags, 'write', signal, (file) => file.writeFile(data, { signal }));
  }

  createReadStream(path: string, options?: ReadStreamOptions): Readable {
    const { start, end, signal } = parseFileOptions('readStream', options);
    const chunks = this.#chunks(path, start, end);
    return Readable.from(chunks, { objectMode: false, highWaterMark: CHUNK, signal });
  }

  createWriteStream(path: string, options?: WriteStreamOptions): Writable {
    const { mode, exclusive, append, signal } = parseFileOptions('writeStream', options);
    const flags = O_WRONLY | O_CREAT | (exclusive ? O_EXCL : 0) | (append ? O_APPEND : 0);
    const begin = async (): Promise<FileHandle> => {
      const file = await this.#open(path, flags, 'write', signal);
      if (!append) await file.truncate(0);
      if (mode !== undefined) await file.chmod(mode);
      return file;
    };
    let file: FileHandle | undefined;
    return new Writable({
      signal,
      construct(done) {
        begin().then((opened) => {
          file = opened;
          done();
        }, done);
      },
      write(chunk: Uint8Array, _encoding, done) {
        file?.writeFile(chunk).then(() => done(), done);
      },
      destroy(error, done) {
        Promise.resolve(file?.close()).then(
          () => done(error),
          (failed: Error) => done(error ?? failed),
        );
      },
    });
  }

  /** What is in a directory, in no order. */
  async *list(path = '/', options?: FileOptions): AsyncGenerator<VolumeFileEntry, void, void> {
    const { signal } = parseFileOptions('plain', options);
    const directory = await TreeDirectory.open(this.#root, namesOf(path), 'list');
    try {
      for (const name of await directory.names()) {
        if (signal?.aborted) throw abortedError(signal, `listing ${path}`);
        const stats = await directory.describe(name, 'list').catch(unlessGone);
        if (stats !== undefined) yield { name, path: directory.shown(name), ...toStat(stats) };
      }
    } finally {
      await directory.close();
    }
  }

  /** Of a symbolic link: itself. */
  async stat(path: string): Promise<VolumeFileStat> {
    if (namesOf(path).length === 0) {
      const top = await TreeDirectory.open(this.#root, [], 'look at');
      try {
        return toStat(await top.describeItself());
      } finally {
        await top.close();
      }
    }
    return this.#at(path, 'look at', async ({ directory, name }) =>
      toStat(await directory.describe(name, 'look at')),
    );
  }

  async exists(path: string): Promise<boolean> {
    try {
      await this.stat(path);
      return true;
    } catch (error) {
      const code = error instanceof FileError ? error.code : '';
      if (code === 'ERR_FILE_NOT_FOUND' || code === 'ERR_FILE_NOT_DIRECTORY') return false;
      throw error;
    }
  }

  /** With all that is missing above it, unless `recursive` is false. */
  async mkdir(path: string, options?: MakeDirectoryOptions): Promise<void> {
    const { mode = DEFAULT_DIRECTORY, recursive } = parseFileOptions('mkdir', options);
    if (recursive && namesOf(path).length === 0) return;
    const work = async ({ directory, name }: Place): Promise<void> => {
      const made = await directory.make(name, mode);
      if (made) return;
      const there = recursive && (await directory.describe(name, 'make')).isDirectory();
      if (!there) throw fileError({ verb: 'make', path }, 'EEXIST', 'mkdir');
    };
    await this.#at(path, 'make', work, recursive);
  }

  /** `recursive`: with all that is in it. */
  async remove(path: string, options?: RecursiveOptions): Promise<void> {
    const { recursive } = parseFileOptions('recursive', options);
    await this.#at(path, 'remove', ({ directory, name }) => directory.remove(name, recursive));
  }

  /** What is at `to` is replaced. */
  async rename(from: string, to: string): Promise<void> {
    await this.#at(from, 'rename', (old) =>
      this.#at(to, 'rename', async (target) => {
        try {
          await rename(old.directory.at(old.name), target.directory.at(target.name));
        } catch (error) {
          throw hostFileError({ verb: 'rename', path: from }, error);
        }
      }),
    );
  }

  async *#chunks(path: string, start: number, end: number | undefined): AsyncGenerator<Buffer> {
    const file = await this.#open(path, O_RDONLY, 'read', undefined);
    try {
      let position = start;
      for (;;) {
        const left = end === undefined ? CHUNK : Math.min(CHUNK, end + 1 - position);
        if (left <= 0) return;
        const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(left), 0, left, position);
        if (bytesRead === 0) return;
        position += bytesRead;
        yield buffer.subarray(0, bytesRead);
      }
    } finally {
      await file.close();
    }
  }

  #open(
    path: string,
    flags: number,
    verb: string,
    signal: AbortSignal | undefined,
  ): Promise<FileHandle> {
    if (signal?.aborted) throw abortedError(signal, `${verb} ${path}`);
    return this.#at(path, verb, ({ directory, name }) =>
      directory.openFile(name, flags, DEFAULT_FILE, verb),
    );
  }

  async #withFile<Value>(
    path: string,
    flags: number,
    verb: string,
    signal: AbortSignal | undefined,
    work: (file: FileHandle) => Promise<Value>,
  ): Promise<Value> {
    const file = await this.#open(path, flags, verb, signal);
    try {
      return await work(file);
    } catch (error) {
      throw hostFileError({ verb, path }, error);
    } finally {
      await file.close();
    }
  }

  async #at<Value>(
    path: string,
    verb: string,
    work: (place: Place) => Promise<Value>,
    make = false,
  ): Promise<Value> {
    const names = namesOf(path);
    const name = names.pop();
    if (name === undefined) throw fileError({ verb, path }, 'EISDIR', undefined);
    const directory = await TreeDirectory.open(this.#root, names, verb, make);
    try {
      return await work({ directory, name });
    } finally {
      await directory.close();
    }
  }
}

function toStat(stats: Awaited<ReturnType<TreeDirectory['describe']>>): VolumeFileStat {
  const kind = stats.isFile()
    ? 'file'
    : stats.isDirectory()
      ? 'directory'
      : stats.isSymbolicLink()
        ? 'symlink'
        : 'other';
  return { kind, size: stats.size, mode: stats.mode & PERMISSIONS, modified: stats.mtime };
}

function unlessGone(error: unknown): undefined {
  if (error instanceof FileError && error.code === 'ERR_FILE_NOT_FOUND') return undefined;
  throw error;
}

function tooLong(path: string, maxBytes: number): FileError {
  return new FileError(
    'ERR_FILE_LIMIT',
    `${JSON.stringify(path)} has more than ${maxBytes} bytes: pass a larger maxBytes, or use ` +
      'createReadStream()',
    { path, context: { path, maxBytes } },
  );
}
