/** How failures of the image store are told. */
import { EmbervmError, ImageError } from '../../errors.js';

/** `ERR_IMAGE_WRITE`, with the errno: a full disk is `ENOSPC`. */
export function storeWriteError(action: string, path: string, cause: unknown): EmbervmError {
  if (cause instanceof EmbervmError) return cause;
  const { code: errno, syscall, message } = cause as NodeJS.ErrnoException;
  const cure = errno === 'ENOSPC' || errno === 'EDQUOT' ? '. Image.prune() makes room' : '';
  return new ImageError('ERR_IMAGE_WRITE', `cannot ${action} ${path}: ${errno ?? message}${cure}`, {
    cause,
    errno,
    syscall,
    context: { path },
  });
}

export function imageNotFound(reference: string, why: string): ImageError {
  return new ImageError('ERR_IMAGE_NOT_FOUND', `there is no image ${reference} here: ${why}`, {
    context: { reference },
  });
}

export function imageInUse(reference: string, user: string): ImageError {
  return new ImageError(
    'ERR_IMAGE_IN_USE',
    `the image ${reference} is used by ${user}. Remove that first`,
    { context: { reference, user } },
  );
}

/** Bytes that are not what their digest or their size says. */
export function badBlob(
  code: 'ERR_IMAGE_DIGEST' | 'ERR_IMAGE_SIZE',
  digest: string,
  why: string,
): ImageError {
  return new ImageError(code, `the blob ${digest} is not what it should be: ${why}`, {
    context: { digest },
  });
}
