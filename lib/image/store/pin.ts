/** Images that are about to be used, against their removal. */
import { stat } from 'node:fs/promises';
import { type ImagePin, savePin } from '../../state/image-pin.js';
import { imageNotFound } from './errors.js';
import { withStore } from './mutex.js';
import { rootPath } from './places.js';

/**
 * Puts the pin into the directory of a sandbox that this process holds; false where the root was
 * removed since it was looked up.
 */
export async function writePin(directory: string, pin: ImagePin): Promise<boolean> {
  // Whoever removes images holds this while looking for pins.
  return withStore(async () => {
    if (!(await isThere(rootPath(pin.root)))) return false;
    await savePin(directory, pin);
    return true;
  });
}

/** Of a pin: the root is there, or it is said what is missing. */
export async function requireRoot({ reference, digest, root }: ImagePin): Promise<string> {
  const path = rootPath(root);
  if (await isThere(path)) return path;
  throw imageNotFound(`${reference} (${digest})`, 'it was removed from outside. Pull it again');
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
