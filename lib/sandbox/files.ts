/** Files of a sandbox. Every path is absolute and stays inside of the guest's root. */
import type { Readable, Writable } from 'node:stream';
import {
  type CopyInOptions,
  type CopyOutOptions,
  checkFileArguments,
  type FileOptions,
  type MakeDirectoryOptions,
  type OwnerOptions,
  parseFileOptions,
  type ReadFileOptions,
  type ReadStreamOptions,
  type RecursiveOptions,
  type WriteFileOptions,
  type WriteStreamOptions,
} from '../config/files.js';
import { FileError } from '../errors.js';
import { FileFlag, type FileQuestion } from '../rpc/files-client.js';
import { toEntry, toStat } from './files-entry.js';
import { checkSource, feedFile } from './files-feed.js';
import { type FilesHost, FilesPort } from './files-port.js';
import { readableOf, writableOf } from './files-streams.js';
import type { CopyResult, FileEntry, FileSource, FileStat, FileWatcher } from './files-types.js';
import { watchFiles } from './files-watch.js';
import { ByteCollector } from './output.js';

/** What `sandbox.files` is. Operations run as root in the guest. */
export class SandboxFiles {
  readonly #port: FilesPort;

  constructor(host: FilesHost) {
    this.#port = new FilesPort(host);
  }

  /** The content of a file, up to `maxBytes`. */
  async read(path: string, options?: ReadFileOptions): Promise<Uint8Array> {
    checkFileArguments({ path });
    const { maxBytes, signal } = parseFileOptions('read', options);
    const call = await this.#port.open({ verb: 'read', path }, 'Read', {}, signal);
    try {
      const collector = new ByteCollector(maxBytes);
      for (;;) {
        const event = await call.receive();
        if (event === undefined) return collector.take();
        collector.append(event.data);
        if (collector.truncated) throw tooLong(path, maxBytes);
      }
    } finally {
      call.close();
    }
  }

  /** The content of a file as UTF-8 text. */
  async readText(path: string, options?: ReadFileOptions): Promise<string> {
    return Buffer.from(await this.read(path, options)).toString('utf8');
  }

  /** Writes a file, in the place of its content. Its directory must exist. */
  async write(path: string, data: FileSource, options?: WriteFileOptions): Promise<void> {
    await this.#write('write', path, data, options, 0);
  }

  /** Writes behind the content of a file, or makes it. */
  async append(path: string, data: FileSource, options?: WriteFileOptions): Promise<void> {
    await this.#write('append to', path, data, options, FileFlag.APPEND);
  }

  /** The content of a file as a stream: any size, in constant memory. */
  createReadStream(path: string, options?: ReadStreamOptions): Readable {
    checkFileArguments({ path });
    const { start, end, signal } = parseFileOptions('readStream', options);
    const length = end === undefined ? 0 : end - start + 1;
    const question = { offset: BigInt(start), length: BigInt(length) };
    return readableOf(
      (limit) => this.#port.open({ verb: 'read', path }, 'Read', question, limit),
      signal,
    );
  }

  /** A stream that writes a file. It has been written when the stream emits `finish`. */
  createWriteStream(path: string, options?: WriteStreamOptions): Writable {
    checkFileArguments({ path });
    const { signal, append, ...rest } = parseFileOptions('writeStream', options);
    const question = writeQuestion(rest, append ? FileFlag.APPEND : 0);
    return writableOf(
      (limit) => this.#port.open({ verb: 'write', path }, 'Write', question, limit),
      signal,
    );
  }

  /** The entries of a directory, in no particular order, read as they are taken. */
  list(path: string, options?: FileOptions): AsyncGenerator<FileEntry, void, void> {
    checkFileArguments({ path });
    const { signal } = parseFileOptions('plain', options);
    return this.#list(path, signal);
  }

  /** What a file is; of a symbolic link, what it points to. */
  async stat(path: string, options?: FileOptions): Promise<FileStat> {
    return this.#stat(path, options, 0);
  }

  /** What a file is; of a symbolic link, the link itself. */
  async lstat(path: string, options?: FileOptions): Promise<FileStat> {
    return this.#stat(path, options, FileFlag.NO_FOLLOW);
  }

  /** Whether `stat` would find something. */
  async exists(path: string, options?: FileOptions): Promise<boolean> {
    try {
      await this.stat(path, options);
      return true;
    } catch (error) {
      const missing = error instanceof FileError && /^(ENOENT|ENOTDIR)$/.test(error.errno ?? '');
      if (missing) return false;
      throw error;
    }
  }

  /** Makes a directory and, unless `recursive` is false, those above it that are missing. */
  async mkdir(path: string, options?: MakeDirectoryOptions): Promise<void> {
    checkFileArguments({ path });
    const { signal, recursive, mode } = parseFileOptions('mkdir', options);
    const flags = recursive ? FileFlag.RECURSIVE : 0;
    const question = withMode(flags, mode);
    await this.#port.call({ verb: 'make directory', path }, 'MakeDirectory', question, signal);
  }

  /** Removes a file or an empty directory; with `recursive` also a full one. Never `/`. */
  async remove(path: string, options?: RecursiveOptions): Promise<void> {
    checkFileArguments({ path });
    const { signal, recursive } = parseFileOptions('recursive', options);
    const operation = { verb: 'remove', path };
    if (!recursive) {
      await this.#port.call(operation, 'Remove', {}, signal);
      return;
    }
    const call = await this.#port.open(operation, 'RemoveTree', {}, signal);
    await call.finish().finally(() => call.close());
  }

  /** Moves a file or directory within one file system, in the place of a file `to`. */
  async rename(path: string, to: string, options?: FileOptions): Promise<void> {
    checkFileArguments({ path, to });
    const { signal } = parseFileOptions('plain', options);
    const question = { target: Buffer.from(to) };
    await this.#port.call({ verb: 'rename', path }, 'Rename', question, signal);
  }

  /**
   * Copies a file or, with `recursive`, a directory to exactly `to`, with modes, owners,
   * times and symbolic links. A directory `to` that exists is added to.
   */
  async copy(path: string, to: string, options?: RecursiveOptions): Promise<void> {
    checkFileArguments({ path, to });
    const { signal, recursive } = parseFileOptions('recursive', options);
    const flags = recursive ? FileFlag.RECURSIVE : 0;
    const question = { target: Buffer.from(to), flags };
    const call = await this.#port.open({ verb: 'copy', path }, 'Copy', question, signal);
    await call.finish().finally(() => call.close());
  }

  /** Makes `path` a symbolic link that holds `target`. */
  async symlink(target: string, path: string, options?: FileOptions): Promise<void> {
    checkFileArguments({ target, path });
    const { signal } = parseFileOptions('plain', options);
    const question = { target: Buffer.from(target) };
    await this.#port.call({ verb: 'make symbolic link', path }, 'MakeSymlink', question, signal);
  }

  /** What a symbolic link holds. */
  async readlink(path: string, options?: FileOptions): Promise<string> {
    checkFileArguments({ path });
    const { signal } = parseFileOptions('plain', options);
    const event = await this.#port.call({ verb: 'read link', path }, 'ReadLink', {}, signal);
    return Buffer.from(event.data).toString();
  }

  /** Sets the permission bits, such as `0o755`. */
  async chmod(path: string, mode: number, options?: FileOptions): Promise<void> {
    checkFileArguments({ path, mode });
    const { signal } = parseFileOptions('plain', options);
    const question = withMode(0, mode);
    await this.#port.call({ verb: 'chmod', path }, 'SetAttributes', question, signal);
  }

  /** Sets owner and group, by number. */
  async chown(path: string, uid: number, gid: number, options?: OwnerOptions): Promise<void> {
    checkFileArguments({ path, uid, gid });
    const { signal, followSymlink } = parseFileOptions('owner', options);
    const flags = FileFlag.SET_OWNER | (followSymlink ? 0 : FileFlag.NO_FOLLOW);
    await this.#port.call({ verb: 'chown', path }, 'SetAttributes', { flags, uid, gid }, signal);
  }

  /**
   * Copies a file or directory of the host to exactly `guestPath`, with modes, times and
   * symbolic links. Files there are replaced; a directory there is added to.
   */
  async copyIn(hostPath: string, guestPath: string, options?: CopyInOptions): Promise<CopyResult> {
    checkFileArguments({ hostPath, guestPath });
    const parsed = parseFileOptions('copyIn', options);
    const { copyIn } = await import('./files-copy-in.js');
    return copyIn(this.#port, hostPath, guestPath, parsed);
  }

  /**
   * Copies a file or directory of the guest to exactly `hostPath`, with permission bits,
   * times and symbolic links. Nothing outside of `hostPath` is written, whatever the
   * guest says; what is there already is handled as by {@link copyIn}.
   */
  async copyOut(
    guestPath: string,
    hostPath: string,
    options?: CopyOutOptions,
  ): Promise<CopyResult> {
    checkFileArguments({ guestPath, hostPath });
    const parsed = parseFileOptions('copyOut', options);
    const { copyOut } = await import('./files-copy-out.js');
    return copyOut(this.#port, guestPath, hostPath, parsed);
  }

  /** Changes of a file or directory; with `recursive` also of all below it. */
  watch(path: string, options?: RecursiveOptions): FileWatcher {
    checkFileArguments({ path });
    return watchFiles(this.#port, path, parseFileOptions('recursive', options));
  }

  async *#list(
    path: string,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<FileEntry, void, void> {
    const call = await this.#port.open({ verb: 'list', path }, 'List', {}, signal);
    try {
      for (;;) {
        const event = await call.receive();
        if (event === undefined) return;
        for (const info of event.entries) yield toEntry(path, info);
      }
    } finally {
      call.close();
    }
  }

  async #stat(path: string, options: FileOptions | undefined, flags: number): Promise<FileStat> {
    checkFileArguments({ path });
    const { signal } = parseFileOptions('plain', options);
    const event = await this.#port.call({ verb: 'stat', path }, 'Stat', { flags }, signal);
    return toStat(event.entries[0]);
  }

  async #write(
    verb: string,
    path: string,
    data: FileSource,
    options: WriteFileOptions | undefined,
    flags: number,
  ): Promise<void> {
    checkFileArguments({ path });
    const { signal, ...rest } = parseFileOptions('write', options);
    const source = checkSource(data);
    const question = writeQuestion(rest, flags);
    const call = await this.#port.open({ verb, path }, 'Write', question, signal);
    await feedFile(call, source).finally(() => call.close());
  }
}

function withMode(flags: number, mode: number | undefined): FileQuestion {
  return mode === undefined ? { flags } : { flags: flags | FileFlag.SET_MODE, mode };
}

function writeQuestion(
  { mode, exclusive }: { mode?: number | undefined; exclusive: boolean },
  flags: number,
): FileQuestion {
  return withMode(flags | (exclusive ? FileFlag.EXCLUSIVE : 0), mode);
}

function tooLong(path: string, maxBytes: number): FileError {
  return new FileError(
    'ERR_FILE_LIMIT',
    `cannot read ${JSON.stringify(path)}: it is longer than ${maxBytes} bytes; ` +
      'raise "maxBytes", or use createReadStream',
    { path, context: { path, maxBytes } },
  );
}
