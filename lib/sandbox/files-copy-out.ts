/**
 * `files.copyOut`: a file or tree of the guest onto the host. The guest may lie about
 * everything, so nothing that it sends is used as a path: names are single and checked,
 * and each is opened below a directory that is open already, never through a link.
 */
import { stat } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import type { ResolvedFileOptions } from '../config/files.js';
import { FileError, RpcError } from '../errors.js';
import { type FileEvent, FileFlag, type FileInfo } from '../rpc/files-client.js';
import { specialFileError } from '../state/file-errors.js';
import { join, kindOf } from './files-entry.js';
import { HostDirectory, type HostFile } from './files-host.js';
import type { FileCall, FilesPort } from './files-port.js';
import { CopyTally } from './files-tally.js';
import type { CopyResult } from './files-types.js';

/** Each level holds a descriptor of this process. */
const MAX_DEPTH = 256;

type Options = ResolvedFileOptions<'copyOut'>;

export async function copyOut(
  port: FilesPort,
  guestPath: string,
  hostPath: string,
  options: Options,
): Promise<CopyResult> {
  const question = { flags: FileFlag.RECURSIVE | FileFlag.SPARSE };
  const operation = { verb: 'copy', path: guestPath };
  const call = await port.open(operation, 'Read', question, options.signal);
  const target = new HostTarget(guestPath, resolve(hostPath), options);
  try {
    await receiveAll(call, target);
    return target.tally.result();
  } finally {
    call.close();
    await target.close();
  }
}

async function receiveAll(call: FileCall, target: HostTarget): Promise<void> {
  for (;;) {
    const event = await call.receive();
    if (event === undefined) break;
    await target.take(event);
  }
  await target.finish();
}

interface Level {
  directory: HostDirectory;
  /** What it gets when it is complete; absent for one that keeps what it has. */
  info?: FileInfo | undefined;
}

class HostTarget {
  readonly tally: CopyTally = new CopyTally();
  readonly #guestPath: string;
  readonly #hostPath: string;
  readonly #options: Options;
  readonly #levels: Level[] = [];
  /** Of a file that is copied alone. */
  #parent: HostDirectory | undefined;
  #file: HostFile | undefined;
  /** What is being copied, below the top, for messages. */
  #names: string[] = [];
  #begun = false;

  constructor(guestPath: string, hostPath: string, options: Options) {
    this.#guestPath = guestPath;
    this.#hostPath = hostPath;
    this.#options = options;
  }

  async take(event: FileEvent): Promise<void> {
    if (event.data.length > 0) {
      this.#count(event.data.length);
      await this.#open().write(event.data);
    }
    if (event.hole > 0n) {
      const length = Number(event.hole);
      this.#count(length);
      this.#open().skip(length);
    }
    if (event.changed) this.tally.noteChanged(this.#shown(this.#open().name));
    for (const info of event.entries) await this.#entry(info);
  }

  /** The guest has sent all. */
  async finish(): Promise<void> {
    await this.#endFile();
    if (!this.#begun || this.#levels.length > 1) {
      throw broken('the agent ended a copy before its end');
    }
    await this.#leave();
  }

  /** Lets go of everything; a file that is not complete is removed. */
  async close(): Promise<void> {
    await this.#file?.discard();
    await this.#parent?.close();
    for (const { directory } of this.#levels) await directory.close();
  }

  #open(): HostFile {
    if (this.#file === undefined) throw broken('the agent sent content of no file');
    return this.#file;
  }

  async #entry(info: FileInfo): Promise<void> {
    await this.#endFile();
    if (!this.#begun) {
      this.#begun = true;
      await this.#begin(info);
      return;
    }
    const level = this.#levels.at(-1);
    if (level === undefined) throw broken('the agent sent an entry of no directory');
    if (info.mode === 0 && info.name.length === 0) {
      if (this.#levels.length === 1) throw broken('the agent left a directory twice');
      await this.#leave();
      this.#names.pop();
      return;
    }
    await this.#make(level.directory, Buffer.from(info.name), info);
  }

  async #begin(info: FileInfo): Promise<void> {
    const parent = await HostDirectory.open(dirname(this.#hostPath));
    this.#parent = parent;
    const name = basename(this.#hostPath);
    if (kindOf(info.mode) !== 'directory') {
      await this.#make(parent, Buffer.from(name), info);
      return;
    }
    this.#countEntry('directories');
    const existing = await isDirectory(this.#hostPath);
    // The caller's own link to a directory is followed; no other ever is.
    const directory = existing
      ? await HostDirectory.open(this.#hostPath)
      : await parent.enter(Buffer.from(name));
    this.#levels.push({ directory, info: existing ? undefined : info });
  }

  async #make(directory: HostDirectory, name: Buffer, info: FileInfo): Promise<void> {
    if (!isName(name)) throw escapes(this.#guestPath, name);
    const shown = name.toString();
    switch (kindOf(info.mode)) {
      case 'file':
        this.#countEntry('files');
        this.#file = await directory.createFile(name, info);
        return;
      case 'symlink':
        this.#countEntry('symlinks');
        await directory.symlink(name, Buffer.from(info.target), info);
        return;
      case 'directory':
        this.#countEntry('directories');
        if (this.#levels.length === MAX_DEPTH) throw this.#limit(`${MAX_DEPTH} levels`, 'depth');
        this.#levels.push({ directory: await directory.enter(name), info });
        this.#names.push(shown);
        return;
      default:
        throw specialFileError(this.#shown(shown));
    }
  }

  async #endFile(): Promise<void> {
    const file = this.#file;
    await file?.complete();
    this.#file = undefined;
  }

  async #leave(): Promise<void> {
    const level = this.#levels.pop();
    if (level === undefined) return;
    try {
      if (level.info !== undefined) await level.directory.describe(level.info);
    } finally {
      await level.directory.close();
    }
  }

  #count(length: number): void {
    this.tally.bytes += length;
    const { maxBytes } = this.#options;
    if (this.tally.bytes > maxBytes) throw this.#limit(`${maxBytes} bytes`, 'maxBytes');
  }

  #countEntry(kind: 'files' | 'directories' | 'symlinks'): void {
    this.tally[kind] += 1;
    const { maxEntries } = this.#options;
    if (this.tally.entries > maxEntries) throw this.#limit(`${maxEntries} entries`, 'maxEntries');
  }

  #limit(bound: string, option: string): FileError {
    return new FileError(
      'ERR_FILE_LIMIT',
      `cannot copy ${JSON.stringify(this.#guestPath)}: it has more than ${bound}`,
      { path: this.#guestPath, context: { path: this.#guestPath, option } },
    );
  }

  /** Where in the guest it is. */
  #shown(name: string): string {
    if (this.#levels.length === 0) return this.#guestPath;
    return join(this.#guestPath, [...this.#names, name].join('/'));
  }
}

function isName(name: Buffer): boolean {
  const text = name.toString('latin1');
  return text !== '' && text !== '.' && text !== '..' && !/[/\0]/.test(text) && text.length <= 255;
}

async function isDirectory(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    return false;
  }
}

function escapes(guestPath: string, name: Buffer): FileError {
  const shown = JSON.stringify(name.toString());
  return new FileError(
    'ERR_FILE_ESCAPE',
    `cannot copy ${JSON.stringify(guestPath)}: the guest names a file ${shown}, which would lead ` +
      'out of the target; do not trust this guest',
    { path: guestPath, context: { path: guestPath, name: name.toString() } },
  );
}

function broken(message: string): RpcError {
  return new RpcError('ERR_RPC_PROTOCOL', message);
}
