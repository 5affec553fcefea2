/** Reads documents that a registry sent: every value is looked at before it is believed. */
import { type ErrorContext, ImageError } from '../errors.js';
import { isDigest } from './manifest-digest.js';

/** A type is a token, a slash and a token (RFC 6838 §4.2); and it is shown in messages. */
const MEDIA_TYPE = /^[a-zA-Z0-9][\w!#$&^.+-]{0,126}\/[a-zA-Z0-9][\w!#$&^.+-]{0,126}$/;
const MAX_SHOWN = 200;

export type JsonObject = Readonly<Record<string, unknown>>;

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  /** As it was sent, for what only some descriptors have. */
  readonly raw: JsonObject;
}

export function invalid(what: string, why: string, cause?: unknown): never {
  throw new ImageError('ERR_IMAGE_INVALID', `${what} is not valid: ${why}`, { cause });
}

/** What is wrong with a document is found by code that does not know whose it is. */
export function addContext(error: unknown, more: ErrorContext | undefined): unknown {
  if (!(error instanceof ImageError)) return error;
  const { code, message, cause, errno, syscall } = error;
  const context = { ...more, ...error.context };
  return new ImageError(code, message, { cause, errno, syscall, context });
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function parseJson(bytes: Uint8Array, what: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    invalid(what, 'it is not JSON', error);
  }
  return isObject(value) ? value : invalid(what, 'it is not a JSON object');
}

export function textOf(object: JsonObject, key: string, what: string): string | undefined {
  const value = object[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') invalid(what, `"${key}" is not a string`);
  return value;
}

export function arrayOf(object: JsonObject, key: string, what: string): readonly unknown[] {
  const value = object[key];
  return Array.isArray(value) ? value : invalid(what, `"${key}" is not an array`);
}

/** What is printable of text that somebody else wrote. */
export function shown(text: string): string {
  return JSON.stringify(text.slice(0, MAX_SHOWN)).slice(1, -1);
}

export function descriptorOf(value: unknown, what: string): Descriptor {
  if (!isObject(value)) invalid(what, 'its descriptor is not an object');
  const { mediaType, digest, size } = value;
  if (typeof mediaType !== 'string' || !MEDIA_TYPE.test(mediaType)) {
    invalid(what, 'its descriptor has no media type');
  }
  if (!isDigest(digest)) invalid(what, 'its descriptor has no sha256 digest');
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
    invalid(what, 'its descriptor has no length');
  }
  return { mediaType: mediaType.toLowerCase(), digest, size, raw: value };
}
