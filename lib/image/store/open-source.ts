/** The source that an option stands for. What a kind of source takes is loaded when one is opened. */
import type { ImageOption } from '../../config/image.js';
import type { RegistryCredentials, RegistryOptions } from '../../config/registry.js';
import { ConfigError } from '../../errors.js';
import type { ImageSource } from '../source.js';
import { imageNotFound } from './errors.js';
import { isDigest } from './places.js';

export async function openSource(
  image: ImageOption,
  auth: RegistryCredentials | undefined,
  registry?: RegistryOptions | undefined,
): Promise<ImageSource> {
  if (typeof image === 'string') {
    if (isDigest(image)) {
      throw imageNotFound(image, 'a digest names only what is in the store. Pull it by its name');
    }
    const { RegistrySource } = await import('../sources/registry.js');
    return new RegistrySource(image, { auth, registry });
  }
  if ('rootfs' in image) {
    const { DirectorySource } = await import('./directory-source.js');
    return new DirectorySource(image.rootfs);
  }
  if ('disk' in image) {
    throw new ConfigError('ERR_INVALID_CONFIG', 'a disk is no image that can be pulled', {
      context: { option: 'image.disk' },
    });
  }
  const { ArchiveSource, LayoutSource } = await import('../sources/local.js');
  const { reference } = image;
  if ('archive' in image) return new ArchiveSource(image.archive, { reference });
  return new LayoutSource(image.layout, { reference });
}

/** By which an image is found in the store; `undefined` where only its source can tell. */
export async function storedName(image: ImageOption): Promise<string | undefined> {
  return typeof image === 'string' ? (await nameOrDigest(image)).name : undefined;
}

/** What a caller names an image by: its canonical name, or the digest of its manifest. */
export async function nameOrDigest(input: string): Promise<{ name: string; isDigest: boolean }> {
  if (isDigest(input)) return { name: input, isDigest: true };
  const { parseReference } = await import('../reference.js');
  return { name: parseReference(input).canonical, isDigest: false };
}

/** What the image of an option is called. */
export function referenceOf(image: ImageOption): string {
  if (typeof image === 'string') return image;
  if ('rootfs' in image) return `rootfs:${image.rootfs}`;
  if ('disk' in image) return `disk:${image.disk}`;
  const path = 'archive' in image ? `archive:${image.archive}` : `layout:${image.layout}`;
  return image.reference === undefined ? path : `${path}:${image.reference}`;
}
