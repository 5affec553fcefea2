/** All images of an archive, or one of them, into the store. */
import type { LoadOptions } from '../../config/image.js';
import { ArchiveSource } from '../sources/local.js';
import { pull } from './pull.js';
import type { StoredImage } from './records.js';

export async function loadArchive({
  path,
  reference,
  onProgress,
  signal,
}: LoadOptions & { path: string }): Promise<StoredImage[]> {
  const names = reference === undefined ? await namesIn(path, signal) : [reference];
  const images = new Map<string, StoredImage>();
  for (const name of names) {
    const image = await pull({
      reference: name ?? path,
      name: undefined,
      // What the archive calls it is what it is called.
      ownName: true,
      policy: 'always',
      open: async () => new ArchiveSource(path, { reference: name ?? undefined }),
      report: onProgress ?? (() => {}),
      signal,
    });
    images.set(image.record.digest, image);
  }
  return [...images.values()];
}

/** Null for the only one that has no name; which of several such was meant, nobody can say. */
async function namesIn(path: string, signal: AbortSignal | undefined): Promise<(string | null)[]> {
  const source = new ArchiveSource(path);
  try {
    const names = await source.list({ signal });
    const named = names.filter((name) => name !== null);
    return named.length > 0 ? [...new Set(named)] : [null];
  } finally {
    await source.close();
  }
}
