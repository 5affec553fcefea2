/** Digests and lengths: what makes bytes of a registry, a mirror or an archive trustworthy. */
import { createHash, type Hash } from 'node:crypto';
import { type ErrorContext, ImageError } from '../errors.js';

const DIGEST = /^sha256:[a-f0-9]{64}$/;

export function isDigest(value: unknown): value is string {
  return typeof value === 'string' && DIGEST.test(value);
}

export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** What bytes have to be, and how to speak of them. */
export interface Expected {
  readonly digest: string;
  /** Unknown for the manifest that a reference with a digest names. */
  readonly size?: number | undefined;
  /** Such as `the layer sha256:… of docker.io/library/python`. */
  readonly what: string;
  readonly context?: ErrorContext | undefined;
}

export function digestError(expected: Expected, actual: string): ImageError {
  return new ImageError(
    'ERR_IMAGE_DIGEST',
    `${expected.what} is damaged: its bytes have the digest ${actual}, not ${expected.digest}`,
    { context: { ...expected.context, expected: expected.digest, actual } },
  );
}

export function sizeError(expected: Expected, actual: number): ImageError {
  const size = expected.size ?? 0;
  const relation = actual > size ? `at least ${actual}` : String(actual);
  return new ImageError(
    'ERR_IMAGE_SIZE',
    `${expected.what} has ${relation} bytes, but its descriptor says ${size}`,
    { context: { ...expected.context, digest: expected.digest, expected: size, actual } },
  );
}

/** Checks bytes that are all there. */
export function verifyBytes(bytes: Uint8Array, expected: Expected): void {
  if (expected.size !== undefined && bytes.byteLength !== expected.size) {
    throw sizeError(expected, bytes.byteLength);
  }
  const actual = digestOf(bytes);
  if (actual !== expected.digest) throw digestError(expected, actual);
}

/**
 * Passes bytes on and checks them on the way: never one more than there may be, and at the end that
 * none is missing and, when the stream began at the beginning, that the digest is right.
 */
export async function* verifyStream(
  source: AsyncIterable<Uint8Array>,
  expected: Expected & { readonly size: number },
  offset: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  const hash: Hash | undefined = offset === 0 ? createHash('sha256') : undefined;
  let position = offset;
  for await (const chunk of source) {
    position += chunk.byteLength;
    if (position > expected.size) throw sizeError(expected, position);
    hash?.update(chunk);
    yield chunk;
  }
  if (position !== expected.size) throw sizeError(expected, position);
  const actual = hash === undefined ? expected.digest : `sha256:${hash.digest('hex')}`;
  if (actual !== expected.digest) throw digestError(expected, actual);
}
