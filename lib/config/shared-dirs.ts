/** Directories of the host that a guest mounts (virtio-fs). */
import { hostPath, nonEmptyText } from './common.js';
import { parseConfig } from './parse.js';
import * as z from './zod.js';

/** What the device's configuration has room for. */
const MAX_TAG = 36;
const MIB = 1024 * 1024;
const MAX_QUOTA_MIB = 1024 * 1024 * 1024;
/** As many as leave room for the other devices. */
const MAX_SHARED_DIRS = 8;
const MIN_OPEN_FILES = 64;
const MAX_OPEN_FILES = 1024 * 1024;
const DEFAULT_OPEN_FILES = 65_536;
/** The last one means "as it is" to the kernel. */
const MAX_ID = 2 ** 32 - 2;

/** How long the guest may believe what it has read. */
export type SharedDirCache = 'none' | 'auto' | 'always';
export type SharedDirOwner = 'host' | { uid: number; gid: number };

/** A directory of the host that the guest mounts: `mount -t virtiofs <tag> <target>`. */
export interface SharedDirConfig {
  /** What the guest mounts it by: 1 to 36 bytes. */
  tag: string;
  /** A directory of the host. Nothing outside of it can be reached. */
  path: string;
  /**
   * `path` is a file: the guest gets a directory with this one alone, by the name `file`, and
   * nothing of what is beside it; default false.
   */
  singleFile?: boolean | undefined;
  /**
   * How much the directory and all below it may take on the disk, in MiB, with what is there
   * already: `ENOSPC` for more. Default: as much as there is.
   */
  quotaMib?: number | undefined;
  /** Refuse every change; default false. */
  readOnly?: boolean | undefined;
  /**
   * `auto` (default): what others change is seen within a second. `none`: at once, without mapped
   * files. `always`: for a directory that nobody else changes.
   */
  cache?: SharedDirCache | undefined;
  /** The guest may keep writes back until it is asked to sync them; default false. */
  writeback?: boolean | undefined;
  /** Directories on which the host has mounted something can be entered; default false. */
  crossMounts?: boolean | undefined;
  /** `guest` (default): locks hold within the guest. `host`: they are taken on the host's files. */
  locks?: 'guest' | 'host' | undefined;
  /**
   * Whose all files are for the guest; on the host they belong to this process. Default: root's.
   * `host`: ids are the host's own, which takes root, and trusts the guest with set-user-ID programs.
   */
  owner?: SharedDirOwner | undefined;
  /** Descriptors that the guest can make this process hold; default 65536. */
  maxOpenFiles?: number | undefined;
}

export interface ResolvedSharedDir {
  tag: string;
  path: string;
  singleFile: boolean;
  /** 0: none. */
  quotaBytes: number;
  readOnly: boolean;
  cache: SharedDirCache;
  writeback: boolean;
  crossMounts: boolean;
  locks: 'guest' | 'host';
  owner: SharedDirOwner;
  maxOpenFiles: number;
}

const id = z.int().check(z.gte(0), z.lte(MAX_ID));

export const quotaMib: z.ZodMiniType<number> = z
  .int()
  .check(z.gte(1), z.lte(MAX_QUOTA_MIB, 'no file system is larger (MiB)'));

export const sharedDirCache: z.ZodMiniType<SharedDirCache> = z.enum(['none', 'auto', 'always']);

export const sharedDirOwner: z.ZodMiniType<SharedDirOwner> = z.union([
  z.enum(['host']),
  z.strictObject({ uid: id, gid: id }),
]);

const tag = nonEmptyText.check(
  z.refine(
    (text) => new TextEncoder().encode(text).length <= MAX_TAG,
    `has at most ${MAX_TAG} bytes`,
  ),
);

const sharedDirFields = z.strictObject({
  tag: tag.check(z.describe('what the guest mounts it by')),
  path: hostPath.check(z.describe('directory of the host')),
  singleFile: z._default(z.boolean(), false).check(z.describe('the path is a file')),
  quotaMib: z.optional(quotaMib).check(z.describe('limit of its size in MiB')),
  readOnly: z._default(z.boolean(), false).check(z.describe('refuse changes')),
  cache: z._default(sharedDirCache, 'auto').check(z.describe('what the guest may keep')),
  writeback: z._default(z.boolean(), false).check(z.describe('the guest may keep writes back')),
  crossMounts: z._default(z.boolean(), false).check(z.describe('enter what is mounted below it')),
  locks: z._default(z.enum(['guest', 'host']), 'guest').check(z.describe('where locks hold')),
  owner: z
    ._default(sharedDirOwner, { uid: 0, gid: 0 })
    .check(z.describe('whose files are, for the guest')),
  maxOpenFiles: z
    ._default(z.int().check(z.gte(MIN_OPEN_FILES), z.lte(MAX_OPEN_FILES)), DEFAULT_OPEN_FILES)
    .check(z.describe('descriptors that are held for the guest')),
});

const sharedDir: z.ZodMiniType<ResolvedSharedDir> = z.pipe(
  sharedDirFields,
  z.transform(({ quotaMib: mib = 0, ...dir }) => ({ ...dir, quotaBytes: mib * MIB })),
);

export function parseSharedDir(input: unknown): ResolvedSharedDir {
  return parseConfig(sharedDir, input, 'invalid shared directory');
}

export const sharedDirs: z.ZodMiniType<ResolvedSharedDir[]> = z.array(sharedDir).check(
  z.maxLength(MAX_SHARED_DIRS, 'the machine has no room for more'),
  z.refine(
    (dirs) => new Set(dirs.map((dir) => dir.tag)).size === dirs.length,
    'each has its own tag',
  ),
);
