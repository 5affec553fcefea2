/** Copies of disks: shared with the original where the file system can, else without its holes. */
import { fromNative } from '../errors.js';
import { loadBinding } from '../native/binding.js';

/** `to` must not exist. Its parts are on the disk when this resolves only where `durable`. */
export async function copyDisk(
  from: string,
  to: string,
  options: { durable?: boolean } = {},
): Promise<void> {
  try {
    await loadBinding().copySparse(from, to, options.durable ?? false);
  } catch (error) {
    throw fromNative(error);
  }
}
