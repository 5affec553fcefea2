/**
 * A directory of the host that is open, and files in it by single names. Node has no
 * `openat`, but `/proc/self/fd` is one: a path through an open descriptor stays in its
 * directory, whatever is renamed or linked meanwhile.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import {
  type FileHandle,
  lutimes,
  mkdir,
  open,
  readlink,
  rename,
  symlink,
  unlink,
} from 'node:fs/promises';
import { FileError } from '../errors.js';
import type { FileInfo } from '../rpc/files-client.js';
import { hostFileError } from '../state/file-errors.js';
import { join } from './files-entry.js';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;
const PRIVATE_DIRECTORY = 0o700;
const PRIVATE_FILE = 0o600;
/** Nothing of the guest's is to run with other rights than its caller's. */
const KEPT_PERMISSIONS = 0o777;
const NS_PER_SECOND = 1e9;

export class HostDirectory {
  readonly #handle: FileHandle;
  readonly #path: string;

  private constructor(handle: FileHandle, path: string) {
    this.#handle = handle;
    this.#path = path;
  }

  /** A directory that the caller names. */
  static async open(path: string): Promise<HostDirectory> {
    const handle = await onHost(path, open(path, O_RDONLY | O_DIRECTORY));
    return new HostDirectory(handle, path);
  }

  /** Opens or makes a directory in this one. */
  async enter(name: Buffer): Promise<HostDirectory> {
    const path = this.#shown(name);
    const at = this.#at(name);
    await onHost(path, mkdir(at, PRIVATE_DIRECTORY), 'EEXIST');
    try {
      const handle = await open(at, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      return new HostDirectory(handle, path);
    } catch (error) {
      throw (await isLink(at))
        ? throughLink(path)
        : hostFileError({ verb: 'copy to', path }, error);
    }
  }

  /** A file that takes the place of what has its name once it is complete. */
  async createFile(name: Buffer, info: FileInfo): Promise<HostFile> {
    const path = this.#shown(name);
    const temporary = this.#at(Buffer.from(`.embervm-${randomBytes(9).toString('hex')}`));
    const flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    const handle = await onHost(path, open(temporary, flags, PRIVATE_FILE));
    return new HostFile(
      handle,
      { path, name: name.toString(), temporary, at: this.#at(name) },
      info,
    );
  }

  async symlink(name: Buffer, target: Buffer, info: FileInfo): Promise<void> {
    const path = this.#shown(name);
    const at = this.#at(name);
    const there = await onHost(path, symlink(target, at), 'EEXIST');
    if (there === 'EEXIST') {
      await onHost(path, unlink(at));
      await onHost(path, symlink(target, at));
    }
    await onHost(path, lutimes(at, seconds(info), seconds(info)));
  }

  /** Gives the directory its mode and time, when all is in it. */
  async describe(info: FileInfo): Promise<void> {
    await onHost(this.#path, describe(this.#handle, info));
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  #at(name: Buffer): Buffer {
    return Buffer.concat([Buffer.from(`/proc/self/fd/${this.#handle.fd}/`), name]);
  }

  #shown(name: Buffer): string {
    return join(this.#path, name.toString());
  }
}

interface Place {
  /** For messages. */
  path: string;
  name: string;
  temporary: Buffer;
  at: Buffer;
}

/** A file that is being written under another name. */
export class HostFile {
  readonly #handle: FileHandle;
  readonly #place: Place;
  readonly #info: FileInfo;
  #position = 0;
  #written = 0;

  constructor(handle: FileHandle, place: Place, info: FileInfo) {
    this.#handle = handle;
    this.#place = place;
    this.#info = info;
  }

  get name(): string {
    return this.#place.name;
  }

  async write(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length; ) {
      const writing = this.#handle.write(data, at, data.length - at, this.#position);
      const { bytesWritten } = await onHost(this.#place.path, writing);
      at += bytesWritten;
      this.#position += bytesWritten;
    }
    this.#written = this.#position;
  }

  /** Leaves a hole. */
  skip(length: number): void {
    this.#position += length;
  }

  async complete(): Promise<void> {
    const { path, temporary, at } = this.#place;
    if (this.#position > this.#written) {
      await onHost(path, this.#handle.truncate(this.#position));
    }
    await onHost(path, describe(this.#handle, this.#info));
    await onHost(path, this.#handle.close());
    await onHost(path, rename(temporary, at));
  }

  /** Removes what is not complete. */
  async discard(): Promise<void> {
    await this.#handle.close().catch(() => {});
    await unlink(this.#place.temporary).catch(() => {});
  }
}

async function describe(handle: FileHandle, info: FileInfo): Promise<void> {
  await handle.chmod(info.mode & KEPT_PERMISSIONS);
  await handle.utimes(seconds(info), seconds(info));
}

function seconds(info: FileInfo): number {
  return Number(info.mtimeNs) / NS_PER_SECOND;
}

async function isLink(path: Buffer): Promise<boolean> {
  return readlink(path).then(
    () => true,
    () => false,
  );
}

/** Waits for a call; its failure names the file, but for the code that is no failure. */
async function onHost<Value, Code extends string = never>(
  path: string,
  promise: Promise<Value>,
  expected?: Code,
): Promise<Value | Code> {
  try {
    return await promise;
  } catch (error) {
    if (expected !== undefined && (error as NodeJS.ErrnoException).code === expected) {
      return expected;
    }
    throw hostFileError({ verb: 'copy to', path }, error);
  }
}

function throughLink(path: string): FileError {
  return new FileError(
    'ERR_FILE_ESCAPE',
    `cannot copy to ${JSON.stringify(path)}: it is a symbolic link, and a directory is to be ` +
      'written there; remove it first',
    { path, context: { path } },
  );
}
