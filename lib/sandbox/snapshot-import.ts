/**
 * Makes a snapshot of an archive, which may come from anywhere: its names are compared with those
 * that there can be, its sizes and digests with its manifest, and nothing of it counts until all of
 * it was right.
 */
import { createReadStream } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { resolve } from 'node:path';
import { Readable, type Transform } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { parseSnapshotName, type ResolvedImport } from '../config/snapshot.js';
import { abortedError, EmbervmError, type MachineError } from '../errors.js';
import { SnapshotDraft } from '../state/snapshots/draft.js';
import {
  archiveInvalid,
  snapshotReadError,
  snapshotWriteError,
} from '../state/snapshots/errors.js';
import {
  MACHINE_DIRECTORY,
  MAX_MANIFEST_BYTES,
  type SnapshotFile,
} from '../state/snapshots/manifest.js';
import { decodeSparse, SparseFormatError } from '../state/snapshots/sparse-stream.js';
import { readSnapshot, type StoredSnapshot } from '../state/snapshots/store.js';
import {
  type ArchiveHeader,
  HEADER_MEMBER,
  parseHeader,
  requirePortable,
} from './snapshot-archive.js';
import { type TarMember, tarMembers } from './tar-members.js';

const WHAT = 'importing a snapshot';
const CHUNK_BYTES = 256 * 1024;
const OWNER_ONLY = 0o600;
const OWNER_ONLY_DIRECTORY = 0o700;
/** What an archive may have beside the content of its members: headers, and zeros at its end. */
const OVERHEAD_BYTES = 1024 * 1024;
const GZIP_MAGIC = [0x1f, 0x8b];

export async function importSnapshot(request: ResolvedImport): Promise<StoredSnapshot> {
  const { source, signal } = request;
  const archive = typeof source === 'string' ? resolve(source) : 'the stream';
  if (signal?.aborted) throw abortedError(signal, WHAT);
  const allowance = { bytes: MAX_MANIFEST_BYTES + OVERHEAD_BYTES };
  const input = streamOf(source, archive);
  const onAbort = (): void => {
    input.destroy(signal && abortedError(signal, WHAT));
  };
  signal?.addEventListener('abort', onAbort);
  const members = tarMembers(bounded(unpacked(told(input, archive)), archive, allowance));
  const taking = new Import(archive, request);
  try {
    for await (const member of members) {
      if (member.type !== 'file') {
        throw archiveInvalid(archive, `${JSON.stringify(member.name)} is no file`);
      }
      if (taking.begun) await taking.add(member);
      else allowance.bytes += await taking.begin(member);
    }
    return await taking.commit();
  } catch (error) {
    await taking.abandon();
    throw error instanceof EmbervmError ? error : badBytes(archive, error);
  } finally {
    signal?.removeEventListener('abort', onAbort);
    input.destroy();
  }
}

function streamOf(source: ResolvedImport['source'], path: string): Readable {
  if (typeof source === 'string') return createReadStream(path, { highWaterMark: CHUNK_BYTES });
  return source instanceof Readable ? source : Readable.from(source);
}

class Import {
  readonly #archive: string;
  readonly #request: ResolvedImport;
  readonly #left = new Map<string, SnapshotFile>();
  #header: ArchiveHeader | undefined;
  #draft: SnapshotDraft | undefined;

  constructor(archive: string, request: ResolvedImport) {
    this.#archive = archive;
    this.#request = request;
  }

  get begun(): boolean {
    return this.#header !== undefined;
  }

  /** Returns how many bytes are to come. */
  async begin({ name, size, content }: TarMember): Promise<number> {
    if (name !== HEADER_MEMBER || size > MAX_MANIFEST_BYTES) {
      throw archiveInvalid(this.#archive, 'it does not begin with a manifest');
    }
    const chunks: Uint8Array[] = [];
    for await (const chunk of content) chunks.push(chunk);
    const header = parseHeader(Buffer.concat(chunks), this.#archive);
    const { files, options } = header.manifest;
    requirePortable(options, `the snapshot in ${this.#archive}`);
    const total = files.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
    const { maxBytes, replace } = this.#request;
    if (total > maxBytes) {
      const why = `it has ${total} bytes, and maxBytes is ${maxBytes}`;
      throw archiveInvalid(this.#archive, why);
    }
    const called = this.#request.name ?? parseSnapshotName(header.name);
    this.#draft = await SnapshotDraft.begin(called, { replace });
    for (const file of files) this.#left.set(file.path, file);
    if (header.manifest.kind === 'memory') {
      await mkdir(this.#draft.pathOf(MACHINE_DIRECTORY), { mode: OWNER_ONLY_DIRECTORY });
    }
    this.#header = header;
    return total;
  }

  async add({ name, size, content }: TarMember): Promise<void> {
    const file = this.#left.get(name);
    const shown = JSON.stringify(name);
    if (this.#draft === undefined || file === undefined) {
      throw archiveInvalid(
        this.#archive,
        `its manifest does not name ${shown}, or it is there twice`,
      );
    }
    this.#left.delete(name);
    if (size !== file.storedBytes) {
      throw archiveInvalid(this.#archive, `${shown} has ${size} bytes, not ${file.storedBytes}`);
    }
    await this.#fill(this.#draft.pathOf(name), file, content);
  }

  async commit(): Promise<StoredSnapshot> {
    const [missing] = this.#left.keys();
    if (this.#header === undefined || this.#draft === undefined) {
      throw archiveInvalid(this.#archive, 'it is empty');
    }
    if (missing !== undefined) throw archiveInvalid(this.#archive, `${missing} is missing`);
    const { version: _version, files, ...facts } = this.#header.manifest;
    await this.#draft.commit(facts, files);
    const { name } = this.#draft;
    this.#draft = undefined;
    return readSnapshot(name);
  }

  async abandon(): Promise<void> {
    await this.#draft?.abandon();
  }

  async #fill(path: string, wanted: SnapshotFile, content: TarMember['content']): Promise<void> {
    try {
      const file = await open(path, 'wx', OWNER_ONLY);
      try {
        const { sha256 } = await decodeSparse(content, file, wanted.bytes);
        if (sha256 !== wanted.sha256) {
          throw archiveInvalid(this.#archive, `${wanted.path} is not what its digest says`);
        }
        await file.sync();
      } finally {
        await file.close();
      }
    } catch (error) {
      if (error instanceof SparseFormatError) {
        throw archiveInvalid(this.#archive, `${wanted.path}: ${error.message}`);
      }
      const { syscall } = error as NodeJS.ErrnoException;
      if (error instanceof EmbervmError || syscall === undefined) throw error;
      throw snapshotWriteError('write', path, error);
    }
  }
}

/** Failures to read the archive, told apart from what is wrong with it. */
async function* told(input: Readable, archive: string): AsyncGenerator<Uint8Array, void, void> {
  try {
    for await (const chunk of input) yield typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
  } catch (error) {
    throw error instanceof EmbervmError ? error : snapshotReadError('read', archive, error);
  }
}

async function* unpacked(
  packed: AsyncGenerator<Uint8Array, void, void>,
): AsyncGenerator<Uint8Array, void, void> {
  const first = await packed.next();
  const head = first.done === true ? new Uint8Array() : first.value;
  const whole = (async function* () {
    yield head;
    yield* packed;
  })();
  if (!GZIP_MAGIC.every((byte, at) => head[at] === byte)) yield* whole;
  else yield* through(Readable.from(whole), createGunzip({ chunkSize: CHUNK_BYTES }));
}

async function* through(
  source: Readable,
  decoder: Transform,
): AsyncGenerator<Uint8Array, void, void> {
  source.on('error', (error) => decoder.destroy(error));
  try {
    yield* source.pipe(decoder);
  } finally {
    source.destroy();
    decoder.destroy();
  }
}

/** A small file can be packed from a very large one. */
async function* bounded(
  bytes: AsyncIterable<Uint8Array>,
  archive: string,
  allowance: { bytes: number },
): AsyncGenerator<Uint8Array, void, void> {
  for await (const chunk of bytes) {
    allowance.bytes -= chunk.length;
    if (allowance.bytes < 0) throw archiveInvalid(archive, 'it has more than its manifest says');
    yield chunk;
  }
}

/** Of zlib, or of the reader of tar archives. */
function badBytes(archive: string, error: unknown): MachineError {
  return archiveInvalid(archive, (error as Error).message, error);
}
