/**
 * Where the store keeps what, below `images/`: `manifests/` has a record for each image, `refs/` what
 * its names are, `blobs/` layers as they came, `roots/` the EROFS images that sandboxes start from.
 * All but the names are content-addressed, and appear by a rename when they are complete.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { ImageError } from '../../errors.js';
import { ensureDirectory, homeDirectory } from '../../state/home.js';
import { storeWriteError } from './errors.js';

/** To be raised when the same layers no longer make the same image: that of native/image. */
const ROOT_FORMAT = 1;
const DIGEST = /^sha256:([0-9a-f]{64})$/;

export function imagesDirectory(): string {
  return join(homeDirectory(), 'images');
}

export type StoreFolder = 'blobs' | 'roots' | 'locks' | 'pulls' | 'manifests' | 'refs';

/** Makes the directory where it is missing. */
export async function storeFolder(name: StoreFolder): Promise<string> {
  const path = join(imagesDirectory(), name);
  try {
    await ensureDirectory(path);
  } catch (cause) {
    throw storeWriteError('make', path, cause);
  }
  return path;
}

export function isDigest(text: string): boolean {
  return DIGEST.test(text);
}

/** The digits of a digest, which is safe as a name of a file then. */
export function hexOf(digest: string): string {
  const hex = DIGEST.exec(digest)?.[1];
  if (hex === undefined) {
    throw new ImageError(
      'ERR_IMAGE_INVALID',
      `${JSON.stringify(digest.slice(0, 100))} is no digest that is supported: sha256 is`,
    );
  }
  return hex;
}

export function blobPath(digest: string): string {
  return join(imagesDirectory(), 'blobs', hexOf(digest));
}

/** Layers with the same content and order have one root, however they were compressed. */
export function rootKeyOf(diffIds: readonly string[]): string {
  return hashOf(JSON.stringify({ ROOT_FORMAT, diffIds }));
}

export function rootPath(key: string): string {
  return join(imagesDirectory(), 'roots', `${key}.erofs`);
}

export function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
