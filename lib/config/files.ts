/** What `sandbox.files` takes. */
import { abortSignal, absoluteGuestPath, hostPath, nonEmptyText } from './common.js';
import { parseConfig } from './parse.js';
import * as z from './zod.js';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const MAX_ID = 2 ** 32 - 2;
const MAX_ENTRIES = 2 ** 31;

export interface FileOptions {
  /** Ends the operation. */
  signal?: AbortSignal | undefined;
}

export interface ReadFileOptions extends FileOptions {
  /** Longer content is `ERR_FILE_LIMIT`; default 256 MiB. A stream has no limit. */
  maxBytes?: number | undefined;
}

export interface WriteFileOptions extends FileOptions {
  /** Permission bits; `0o644` for a new file, else those that it has. */
  mode?: number | undefined;
  /** Fail with `ERR_FILE_EXISTS` when there is such a file. */
  exclusive?: boolean | undefined;
}

export interface ReadStreamOptions extends FileOptions {
  /** The first byte, counted from 0. */
  start?: number | undefined;
  /** The last byte, included. */
  end?: number | undefined;
}

export interface WriteStreamOptions extends WriteFileOptions {
  /** Write behind what is there. */
  append?: boolean | undefined;
}

export interface MakeDirectoryOptions extends FileOptions {
  /** Permission bits of the last directory; default `0o755`. */
  mode?: number | undefined;
  /** Make what is missing above it, and take one that is there for made (default). */
  recursive?: boolean | undefined;
}

export interface RecursiveOptions extends FileOptions {
  recursive?: boolean | undefined;
}

export interface OwnerOptions extends FileOptions {
  /** Of a symbolic link: what it points to (default), or itself. */
  followSymlink?: boolean | undefined;
}

export interface CopyInOptions extends FileOptions {
  /** Owner of what is made in the guest; default 0, root. */
  uid?: number | undefined;
  gid?: number | undefined;
}

export interface CopyOutOptions extends FileOptions {
  /** Stop with `ERR_FILE_LIMIT` beyond so many bytes (sparse ones included); default 64 GiB. */
  maxBytes?: number | undefined;
  /** The same for files, directories and links; default 1,000,000. */
  maxEntries?: number | undefined;
}

const mode = z.int().check(z.gte(0), z.lte(0o7777, 'permission bits have four octal digits'));
const id = z.int().check(z.gte(0), z.lte(MAX_ID, 'the kernel has no larger ids'));
const bytes = z.int().check(z.gte(0));
const flag = z.boolean();
const common = { signal: z.optional(abortSignal) };

interface Resolved {
  plain: FileOptions;
  read: FileOptions & { maxBytes: number };
  write: FileOptions & { mode?: number | undefined; exclusive: boolean };
  readStream: FileOptions & { start: number; end?: number | undefined };
  writeStream: FileOptions & { mode?: number | undefined; exclusive: boolean; append: boolean };
  mkdir: FileOptions & { mode?: number | undefined; recursive: boolean };
  recursive: FileOptions & { recursive: boolean };
  owner: FileOptions & { followSymlink: boolean };
  copyIn: FileOptions & { uid: number; gid: number };
  copyOut: FileOptions & { maxBytes: number; maxEntries: number };
}

/** The options of one kind of operation, checked and complete. */
export type ResolvedFileOptions<Kind extends keyof Resolved> = Resolved[Kind];

const schemas: { [Kind in keyof Resolved]: z.ZodMiniType<Resolved[Kind]> } = {
  plain: z.strictObject(common),
  read: z.strictObject({ ...common, maxBytes: z._default(bytes, 256 * MIB) }),
  write: z.strictObject({
    ...common,
    mode: z.optional(mode),
    exclusive: z._default(flag, false),
  }),
  readStream: z
    .strictObject({ ...common, start: z._default(bytes, 0), end: z.optional(bytes) })
    .check(
      z.refine(({ start, end }) => end === undefined || end >= start, {
        path: ['end'],
        message: 'the last byte must not lie before the first',
      }),
    ),
  writeStream: z.strictObject({
    ...common,
    mode: z.optional(mode),
    exclusive: z._default(flag, false),
    append: z._default(flag, false),
  }),
  mkdir: z.strictObject({ ...common, mode: z.optional(mode), recursive: z._default(flag, true) }),
  recursive: z.strictObject({ ...common, recursive: z._default(flag, false) }),
  owner: z.strictObject({ ...common, followSymlink: z._default(flag, true) }),
  copyIn: z.strictObject({ ...common, uid: z._default(id, 0), gid: z._default(id, 0) }),
  copyOut: z.strictObject({
    ...common,
    maxBytes: z._default(bytes, 64 * GIB),
    maxEntries: z._default(z.int().check(z.gte(0), z.lte(MAX_ENTRIES)), 1_000_000),
  }),
};

type ArgumentName = 'path' | 'to' | 'guestPath' | 'hostPath' | 'target' | 'mode' | 'uid' | 'gid';

const fields: Readonly<Record<ArgumentName, z.ZodMiniType>> = {
  path: absoluteGuestPath,
  to: absoluteGuestPath,
  guestPath: absoluteGuestPath,
  hostPath,
  target: nonEmptyText,
  mode,
  uid: id,
  gid: id,
};

/** Checks the options of one kind and fills in what is absent. */
export function parseFileOptions<Kind extends keyof Resolved>(
  kind: Kind,
  input: unknown,
): Resolved[Kind] {
  return parseConfig(schemas[kind], input === undefined ? {} : input, 'invalid file options');
}

/** Checks arguments by their names: paths, modes, ids. */
export function checkFileArguments(input: { [Name in ArgumentName]?: unknown }): void {
  for (const [name, value] of Object.entries(input)) {
    const schema = z.strictObject({ [name]: fields[name as ArgumentName] });
    parseConfig<unknown>(schema, { [name]: value }, 'invalid file operation');
  }
}
