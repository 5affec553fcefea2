/** `files.copyIn`: a file or tree of the host, entry by entry in one stream. */
import { constants, type Dir } from 'node:fs';
import { type FileHandle, lstat, open, opendir, readlink, stat } from 'node:fs/promises';
import type { ResolvedFileOptions } from '../config/files.js';
import { FileError } from '../errors.js';
import { FileFlag, type FileQuestion, MAX_FILE_MESSAGE } from '../rpc/files-client.js';
import { hostFileError, specialFileError } from '../state/file-errors.js';
import { feedCall } from './files-feed.js';
import type { FilesPort } from './files-port.js';
import { CopyTally } from './files-tally.js';
import type { CopyResult } from './files-types.js';

const { S_IFDIR, S_IFLNK, S_IFREG, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
const PERMISSIONS = 0o7777n;
/** A tree that is deeper is a loop of mounts, or a mistake. */
const MAX_DEPTH = 256;
const NEW_DIRECTORY_MODE = 0o700;
const ALL = FileFlag.REPLACE | FileFlag.SET_MODE | FileFlag.SET_OWNER | FileFlag.SET_TIME;

type Options = ResolvedFileOptions<'copyIn'>;
type Questions = AsyncGenerator<FileQuestion, void, void>;
type Status = Awaited<ReturnType<typeof statOf>>;

/** A place of the host and its counterpart. Bytes: names need not be UTF-8. */
interface Pair {
  host: Buffer;
  guest: Buffer;
}

export async function copyIn(
  port: FilesPort,
  hostPath: string,
  guestPath: string,
  options: Options,
): Promise<CopyResult> {
  const { signal } = options;
  const source = new HostSource(options);
  const pair = { host: Buffer.from(hostPath), guest: Buffer.from(guestPath) };
  const questions = source.all(pair, () => directoryExists(port, guestPath, signal));
  const first = await questions.next();
  const operation = { verb: 'write', path: guestPath };
  try {
    const call = await port.open(operation, 'Write', first.value ?? {}, signal);
    await feedCall(call, questions).finally(() => call.close());
  } finally {
    await questions.return();
  }
  return source.tally.result();
}

async function directoryExists(
  port: FilesPort,
  path: string,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  try {
    const { entries } = await port.call({ verb: 'stat', path }, 'Stat', {}, signal);
    return ((entries[0]?.mode ?? 0) & constants.S_IFMT) === S_IFDIR;
  } catch (error) {
    if (error instanceof FileError) return false;
    throw error;
  }
}

class HostSource {
  readonly tally: CopyTally = new CopyTally();
  readonly #options: Options;
  readonly #buffer = Buffer.allocUnsafe(MAX_FILE_MESSAGE);

  constructor(options: Options) {
    this.#options = options;
  }

  /** What to send for all of it. The path that was given may be a link; what is below is not followed. */
  async *all(top: Pair, topExists: () => Promise<boolean>): Questions {
    const status = await onHost(top.host, stat(top.host, { bigint: true }));
    if (!status.isDirectory()) {
      yield* this.#file(top, 0);
      return;
    }
    const existed = await topExists();
    yield* this.#tree(top);
    if (!existed) yield this.#endOfDirectory(top, status);
  }

  async *#tree(top: Pair): Questions {
    const stack = [await this.#enter(top)];
    try {
      yield beginDirectory(top);
      for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
        const entry = await onHost(level.pair.host, level.directory.read());
        if (entry === null) {
          stack.pop();
          await level.directory.close();
          if (level.status !== undefined) yield this.#endOfDirectory(level.pair, level.status);
          continue;
        }
        const pair = below(level.pair, entry.name as unknown as Buffer);
        const status = await present(statOf(pair.host), pair.host);
        if (status?.isDirectory()) {
          if (stack.length === MAX_DEPTH) throw tooDeep(pair.host);
          stack.push({ ...(await this.#enter(pair)), status });
          yield beginDirectory(pair);
        } else if (status !== undefined) {
          yield* this.#entry(pair, status);
        }
      }
    } finally {
      for (const { directory } of stack) await directory.close();
    }
  }

  async #enter(pair: Pair): Promise<{ pair: Pair; directory: Dir; status?: Status }> {
    this.tally.directories += 1;
    // Node gives names as bytes for this encoding, though its types do not say so.
    const encoding = 'buffer' as unknown as BufferEncoding;
    return { pair, directory: await onHost(pair.host, opendir(pair.host, { encoding })) };
  }

  async *#entry(pair: Pair, status: Status): Questions {
    if (status.isFile()) {
      yield* this.#file(pair, O_NOFOLLOW);
    } else if (status.isSymbolicLink()) {
      const target = await onHost(pair.host, readlink(pair.host, { encoding: 'buffer' }));
      this.tally.symlinks += 1;
      yield { ...this.#attributes(pair, status), mode: S_IFLNK, target };
    } else {
      throw specialFileError(pair.host.toString());
    }
  }

  async *#file(pair: Pair, flags: number): Questions {
    const opening = open(pair.host, O_RDONLY | O_NONBLOCK | flags);
    const handle = await onHost(pair.host, opening);
    try {
      const status = await handle.stat({ bigint: true });
      if (!status.isFile()) throw specialFileError(pair.host.toString());
      this.tally.files += 1;
      yield this.#attributes(pair, status);
      yield* this.#content(pair, handle, status);
    } finally {
      await handle.close();
    }
  }

  /** What a file holds that may grow meanwhile: not more than when it was opened. */
  async *#content(pair: Pair, handle: FileHandle, status: Status): Questions {
    // The kernel's own files say that they are empty, and are not.
    let left = status.size > 0n ? Number(status.size) : Number.POSITIVE_INFINITY;
    while (left > 0) {
      const length = Math.min(left, this.#buffer.length);
      const { bytesRead } = await onHost(pair.host, handle.read(this.#buffer, 0, length));
      if (bytesRead === 0) break;
      left -= bytesRead;
      this.tally.bytes += bytesRead;
      // The message has its own copy before the buffer is used again.
      yield { data: this.#buffer.subarray(0, bytesRead) };
    }
    const now = await handle.stat({ bigint: true });
    if (now.size !== status.size || now.mtimeNs !== status.mtimeNs) {
      this.tally.noteChanged(pair.host.toString());
    }
  }

  #attributes({ guest }: Pair, status: Status): FileQuestion {
    const { uid, gid } = this.#options;
    const mode = S_IFREG | Number(status.mode & PERMISSIONS);
    return { path: guest, flags: ALL, mode, uid, gid, mtimeNs: status.mtimeNs };
  }

  /** Last, because what is made inside changes the time. */
  #endOfDirectory(pair: Pair, status: Status): FileQuestion {
    const mode = S_IFDIR | Number(status.mode & PERMISSIONS);
    return { ...this.#attributes(pair, status), mode };
  }
}

function beginDirectory({ guest }: Pair): FileQuestion {
  return { path: guest, flags: FileFlag.REPLACE, mode: S_IFDIR | NEW_DIRECTORY_MODE };
}

function below({ host, guest }: Pair, name: Buffer): Pair {
  const slash = Buffer.from('/');
  return { host: Buffer.concat([host, slash, name]), guest: Buffer.concat([guest, slash, name]) };
}

function statOf(path: Buffer) {
  return lstat(path, { bigint: true });
}

/** `undefined` for what has gone since its directory was read. */
async function present<Value>(promise: Promise<Value>, path: Buffer): Promise<Value | undefined> {
  try {
    return await promise;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw hostFileError({ verb: 'copy', path: path.toString() }, error);
  }
}

async function onHost<Value>(path: Buffer, promise: Promise<Value>): Promise<Value> {
  try {
    return await promise;
  } catch (error) {
    throw hostFileError({ verb: 'copy', path: path.toString() }, error);
  }
}

function tooDeep(path: Buffer): FileError {
  const shown = path.toString();
  return new FileError(
    'ERR_FILE_LIMIT',
    `cannot copy ${JSON.stringify(shown)}: the tree is deeper than ${MAX_DEPTH} directories`,
    { path: shown, context: { path: shown, limit: MAX_DEPTH } },
  );
}
