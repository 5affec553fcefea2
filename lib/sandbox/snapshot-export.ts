/** Writes a snapshot as one archive. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { PassThrough, Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createGzip } from 'node:zlib';
import type { ResolvedExport } from '../config/snapshot.js';
import { abortedError, EmbervmError } from '../errors.js';
import { TarWriter } from '../image/store/tar-writer.js';
import { syncDirectory } from '../state/durable.js';
import {
  snapshotInvalid,
  snapshotReadError,
  snapshotWriteError,
} from '../state/snapshots/errors.js';
import type { SnapshotFile } from '../state/snapshots/manifest.js';
import { encodeSparse } from '../state/snapshots/sparse-stream.js';
import { type OpenedSnapshot, openSnapshot } from '../state/snapshots/store.js';
import { encodeHeader, HEADER_MEMBER, requirePortable } from './snapshot-archive.js';

const MODE = 0o600;
const WHAT = 'exporting a snapshot';

/** A file at the path must not exist; a stream is ended. */
export async function exportSnapshot(request: ResolvedExport): Promise<void> {
  const { name, target, signal } = request;
  if (signal?.aborted) throw abortedError(signal, WHAT);
  const opened = await openSnapshot(name);
  try {
    requirePortable(opened.manifest.options, `the snapshot "${name}"`);
    if (typeof target === 'string') await toFile(opened, request, resolve(target));
    else await toStream(opened, request, target, 'the stream');
  } finally {
    await opened.release();
  }
}

async function toFile(
  opened: OpenedSnapshot,
  request: ResolvedExport,
  path: string,
): Promise<void> {
  const file = createWriteStream(path, { flags: 'wx', mode: MODE, flush: true });
  await once(file, 'open').catch((cause: unknown) => {
    throw snapshotWriteError('make', path, cause);
  });
  try {
    await toStream(opened, request, file, path);
    await syncDirectory(dirname(path)).catch((cause: unknown) => {
      throw snapshotWriteError('write', path, cause);
    });
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  }
}

async function toStream(
  opened: OpenedSnapshot,
  { name, compress, signal }: ResolvedExport,
  target: Writable,
  to: string,
): Promise<void> {
  // Packing takes most of the time, and packing better wins little of what memories have.
  const head = compress ? createGzip({ level: constants.Z_BEST_SPEED }) : new PassThrough();
  const failed = new AbortController();
  const written = pipeline(head, target).catch((error: unknown) => {
    failed.abort();
    throw snapshotWriteError('write', to, error);
  });
  // Looked at below; until then its failure is nobody's.
  written.catch(() => {});
  const stop = signal === undefined ? failed.signal : AbortSignal.any([failed.signal, signal]);
  const tar = new TarWriter(async (bytes) => {
    if (signal?.aborted) throw abortedError(signal, WHAT);
    // Why is said below.
    if (failed.signal.aborted) await written;
    if (!head.write(bytes)) await once(head, 'drain', { signal: stop }).catch(() => {});
  });
  try {
    const { manifest } = opened;
    const header = encodeHeader({ name, manifest });
    await tar.add(
      { path: HEADER_MEMBER, type: 'file', mode: MODE, size: header.length },
      Readable.from([header]),
    );
    for (const file of manifest.files) {
      const { path, storedBytes: size } = file;
      await tar.add(
        { path, type: 'file', mode: MODE, size },
        contentOf(opened, name, file, signal),
      );
    }
    await tar.end();
    head.end();
  } catch (error) {
    head.destroy(error as Error);
    await written.catch(() => {});
    throw error;
  }
  await written;
}

/** What is written is what was saved, or the archive ends with an error. */
async function* contentOf(
  opened: OpenedSnapshot,
  name: string,
  { path, bytes, storedBytes, sha256 }: SnapshotFile,
  signal: AbortSignal | undefined,
): AsyncGenerator<Buffer, void, void> {
  const changed = (): Error => snapshotInvalid(name, `its file ${path} was changed`, path);
  const place = opened.pathOf(path);
  const hash = createHash('sha256');
  let left = storedBytes;
  try {
    const file = await open(place, 'r');
    try {
      for await (const record of encodeSparse(file, bytes, signal)) {
        left -= record.length;
        if (left < 0) throw changed();
        hash.update(record);
        yield record;
      }
    } finally {
      await file.close();
    }
  } catch (error) {
    throw error instanceof EmbervmError ? error : snapshotReadError('read', place, error);
  }
  if (left > 0 || hash.digest('hex') !== sha256) throw changed();
}
