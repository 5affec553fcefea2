/** Where the metadata of sandboxes is kept: what a storage plugin has to be able to do. */
import { HostError } from '../../errors.js';

/** What a record may hold. */
export type JsonValue =
  | string
  | number
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue };

/**
 * Keeps records under keys. A key is one or more names of at most 128 bytes of
 * `[A-Za-z0-9][A-Za-z0-9._-]*`, with `/` between them.
 *
 * - Records appear, change and go as a whole: whoever reads during a `save`, or after a process
 *   was killed in the middle of one, finds the old record or the new one.
 * - When `save` or `delete` has resolved, a power failure does not undo it.
 * - Several processes may use one storage at once; the last `save` wins.
 */
export interface Storage {
  save(key: string, value: JsonValue): Promise<void>;
  /** `undefined` when there is none. `ERR_STATE_CORRUPT` when there is one that cannot be read. */
  load(key: string): Promise<JsonValue | undefined>;
  /** Nothing happens when there is none. */
  delete(key: string): Promise<void>;
  /** The keys below `prefix`, which is the beginning of a key up to a `/`; sorted. */
  list(prefix: string): Promise<string[]>;
}

const MAX_NAME = 128;
const MAX_DEPTH = 8;

/** Throws for what is no key: nothing that comes from outside may walk the file system. */
export function checkKey(key: string): void {
  const names = key.split('/');
  const good = names.every(
    (name) => name.length <= MAX_NAME && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name),
  );
  if (good && names.length <= MAX_DEPTH) return;
  throw new HostError('ERR_STATE_KEY', `${JSON.stringify(key)} is no key of a record`, {
    context: { key },
  });
}

/** `ERR_STATE_CORRUPT`: a record that neither this version nor a crash of it can have written. */
export function corruptRecord(key: string, where: string, cause?: unknown): HostError {
  return new HostError(
    'ERR_STATE_CORRUPT',
    `the record "${key}" in ${where} cannot be read; it was damaged from outside. Restore it, or ` +
      'remove what it belongs to',
    { cause, context: { key } },
  );
}
