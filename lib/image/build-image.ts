/** Tar layers into one EROFS image, off the JS thread. */
import { abortedError, fromNative } from '../errors.js';
import { loadBinding } from '../native/binding.js';
import type { NativeImageLimits, NativeImageReport } from '../native/types.js';

export type ImageLimits = NativeImageLimits;
export type ImageReport = NativeImageReport;

export interface BuildImageOptions {
  /** Paths of tar archives, uncompressed, the lowest layer first. */
  layers: readonly string[];
  /** Where the image will be. What is there is replaced, when the image is complete. */
  path: string;
  limits?: ImageLimits | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * The same layers make the same bytes. Nothing stays of an image that failed; of one that this
 * process did not survive, a file named `<path>.tmp-<16 hex digits>`.
 */
export async function buildImage(options: BuildImageOptions): Promise<ImageReport> {
  const { layers, path, limits = {}, signal } = options;
  if (signal?.aborted === true) throw abortedError(signal, 'making the image');
  let cancel = (): void => {};
  try {
    const job = loadBinding().buildImage({ layers, path, limits });
    cancel = () => job.cancel();
    signal?.addEventListener('abort', cancel, { once: true });
    return await job.done;
  } catch (error) {
    const failure = fromNative(error);
    if (failure.code === 'ERR_ABORTED' && signal !== undefined) {
      throw abortedError(signal, 'making the image');
    }
    throw failure;
  } finally {
    signal?.removeEventListener('abort', cancel);
  }
}
