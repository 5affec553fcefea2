/**
 * Where the files of a tar archive are in it. Nothing is unpacked, so the names in it, which may
 * be any, never meet the file system: they are only compared.
 */
import { once } from 'node:events';
import { posix } from 'node:path';
import type { Extract, Header } from 'tar-stream';
import { abortedError, ImageError } from '../../errors.js';
import { type Extent, readExtent } from './regular-file.js';

const MAX_ENTRIES = 65_536;
const MAX_LINKS = 8;
/** What tar-stream knows besides what its types tell. */
type LocatedHeader = Header & { byteOffset?: number };

type Entry = { extent: Extent } | { link: string };

export class TarIndex {
  readonly #path: string;
  readonly #entries: ReadonlyMap<string, Entry>;

  constructor(path: string, entries: ReadonlyMap<string, Entry>) {
    this.#path = path;
    this.#entries = entries;
  }

  /** The file of this name, through links; undefined when the archive has none. */
  find(name: string): Extent | undefined {
    let wanted = clean(name);
    for (let links = 0; links <= MAX_LINKS; links += 1) {
      const entry = wanted === undefined ? undefined : this.#entries.get(wanted);
      if (entry === undefined) return undefined;
      if ('extent' in entry) return entry.extent;
      wanted = clean(entry.link);
    }
    throw new ImageError('ERR_IMAGE_INVALID', `${this.#path} has links that lead to each other`, {
      context: { path: this.#path },
    });
  }
}

/** `./a//b` is `a/b`; undefined for what would be outside of the archive. */
function clean(name: string): string | undefined {
  const path = posix.normalize(name).replace(/^\/+/, '');
  return path === '' || path === '.' || path === '..' || path.startsWith('../') ? undefined : path;
}

/** Links are relative to their directory; hard links to the archive. */
function toEntry(header: LocatedHeader, archive: Extent): Entry | undefined {
  const { name, type, linkname, byteOffset, size } = header;
  if (type === 'symlink' && linkname) return { link: posix.join(posix.dirname(name), linkname) };
  if (type === 'link' && linkname) return { link: linkname };
  if ((type !== 'file' && type !== 'contiguous-file') || byteOffset === undefined) return undefined;
  return { extent: { file: archive.file, start: archive.start + byteOffset, size: size ?? 0 } };
}

function invalid(path: string, cause: unknown): ImageError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new ImageError('ERR_IMAGE_INVALID', `${path} is not a whole tar archive: ${why}`, {
    cause,
    context: { path },
  });
}

/** Reads the archive once, from end to end; of a name that is there twice, the last counts. */
export async function indexTar(
  archive: Extent,
  path: string,
  signal?: AbortSignal,
): Promise<TarIndex> {
  const { extract } = await import('tar-stream');
  const entries = new Map<string, Entry>();
  const reader = extract();
  let count = 0;
  let failure: unknown;
  reader.on('error', (error) => {
    failure ??= invalid(path, error);
  });
  reader.on('entry', (header: LocatedHeader, body, next) => {
    count += 1;
    if (count > MAX_ENTRIES) {
      failure ??= new ImageError(
        'ERR_IMAGE_LIMIT',
        `${path} has more than ${MAX_ENTRIES} entries`,
        {
          context: { path, limit: MAX_ENTRIES },
        },
      );
    }
    const name = clean(header.name);
    const entry = name === undefined ? undefined : toEntry(header, archive);
    if (name !== undefined && entry !== undefined) entries.set(name, entry);
    body.on('end', next);
    // A broken archive ends the entry as well as the reader, which tells of it.
    body.on('error', () => {});
    body.resume();
  });
  try {
    for await (const chunk of readExtent(archive, path, 0, signal)) {
      await write(reader, chunk);
      if (failure !== undefined) throw failure;
    }
    await finish(reader);
  } finally {
    reader.destroy(null);
  }
  if (failure !== undefined) throw failure;
  if (signal?.aborted) throw abortedError(signal, `reading ${path}`);
  return new TarIndex(path, entries);
}

async function write(reader: Extract, chunk: Uint8Array): Promise<void> {
  if (reader.write(chunk) || reader.destroyed) return;
  // Either may come: a broken archive closes the reader.
  const waiting = new AbortController();
  const options = { signal: waiting.signal };
  await Promise.race([once(reader, 'drain', options), once(reader, 'close', options)]).catch(
    () => {},
  );
  waiting.abort();
}

async function finish(reader: Extract): Promise<void> {
  if (reader.destroyed) return;
  const closed = once(reader, 'close').catch(() => {});
  reader.end(null);
  await closed;
}
