/** What a sandbox mounts inside its root. */
import { posix, resolve } from 'node:path';
import { absoluteGuestPath, hostPath, sandboxName } from './common.js';
import { type DiskFormat, diskFormat } from './disk-format.js';
import {
  type SharedDirCache,
  type SharedDirOwner,
  sharedDirCache,
  sharedDirOwner,
} from './shared-dirs.js';
import * as z from './zod.js';

const MIB = 1024 * 1024;
const MAX_TMPFS_MIB = 1024 * 1024;
const MAX_MODE = 0o7777;
/** Each takes one of the machine's slots. */
const MAX_DEVICES = 8;
const MAX_MOUNTS = 64;
/** What programs rely on to find there, and what is ours. */
const TAKEN = ['/proc', '/sys', '/.embervm'];

interface MountFlags {
  /** Nothing can be changed through it: for a bind and a volume, the host sees to that. */
  readonly?: boolean | undefined;
  /** Its programs cannot be run. */
  noexec?: boolean | undefined;
  /** Set-user-ID bits of its programs have no effect; always so with `securityProfile: 'restricted'`. */
  nosuid?: boolean | undefined;
  /** Its device files cannot be opened; always so with `securityProfile: 'restricted'`. */
  nodev?: boolean | undefined;
}

/** A directory or one file of this host. What the host writes is seen, and the other way round. */
export interface BindMount extends MountFlags {
  bind: string;
  /** How long the guest may believe what it has read, as of `SharedDirConfig`; default `auto`. */
  cache?: SharedDirCache | undefined;
  /** Whose its files are for the guest; default: root's. */
  owner?: SharedDirOwner | undefined;
}

/** A volume by its name: see `Volume`. */
export interface VolumeMount extends MountFlags {
  volume: string;
}

/** Memory of the guest. It is gone with the sandbox. */
export interface TmpfsMount extends MountFlags {
  tmpfs: {
    /** Default: half of the guest's memory. */
    sizeMib?: number | undefined;
    /** Of its top directory; default 0o1777. */
    mode?: number | undefined;
  };
}

/** The file system of a disk image. One that is written to has one sandbox at a time. */
export interface DiskMount extends MountFlags {
  disk: string;
  /**
   * How the file holds the disk; default `raw`. A qcow2 image must have no
   * backing file; a VMDK is flat, and its files are beside the descriptor.
   */
  format?: DiskFormat | undefined;
  /** Default: whichever of the two it is. */
  fstype?: 'ext4' | 'erofs' | undefined;
}

export type Mount = BindMount | VolumeMount | TmpfsMount | DiskMount;

export type ResolvedMountSource =
  | { kind: 'bind'; path: string; cache: SharedDirCache; owner: SharedDirOwner }
  | { kind: 'volume'; name: string }
  | { kind: 'tmpfs'; sizeBytes?: number | undefined; mode?: number | undefined }
  | {
      kind: 'disk';
      path: string;
      format: DiskFormat;
      fstype?: 'ext4' | 'erofs' | undefined;
    };

export interface ResolvedMount {
  target: string;
  source: ResolvedMountSource;
  readonly: boolean;
  noexec: boolean;
  nosuid: boolean;
  nodev: boolean;
}

const KINDS = ['bind', 'volume', 'tmpfs', 'disk'] as const;
/** What has a meaning with one kind only. */
const OPTIONS_OF = { cache: 'bind', owner: 'bind', format: 'disk', fstype: 'disk' } as const;

const flag = z._default(z.boolean(), false);

const mountFields = z.strictObject({
  bind: z.optional(hostPath).check(z.describe('directory or file of the host')),
  volume: z.optional(sandboxName).check(z.describe('name of a volume')),
  tmpfs: z
    .optional(
      z.strictObject({
        sizeMib: z.optional(z.int().check(z.gte(1), z.lte(MAX_TMPFS_MIB))),
        mode: z.optional(z.int().check(z.gte(1), z.lte(MAX_MODE))),
      }),
    )
    .check(z.describe('memory of the guest')),
  disk: z.optional(hostPath).check(z.describe('disk image')),
  format: z.optional(diskFormat).check(z.describe('format of the disk image')),
  fstype: z.optional(z.enum(['ext4', 'erofs'])).check(z.describe('file system of the disk')),
  cache: z.optional(sharedDirCache).check(z.describe('what the guest may keep')),
  owner: z.optional(sharedDirOwner).check(z.describe('whose files are, for the guest')),
  readonly: flag.check(z.describe('refuse changes')),
  noexec: flag.check(z.describe('run no programs')),
  nosuid: flag.check(z.describe('ignore set-user-ID bits')),
  nodev: flag.check(z.describe('open no device files')),
});

type MountFields = z.infer<typeof mountFields>;

const mount = mountFields.check(
  z.refine(
    (fields) => KINDS.filter((kind) => fields[kind] !== undefined).length === 1,
    'a mount has exactly one of bind, volume, tmpfs and disk',
  ),
  z.refine(
    (fields) =>
      Object.entries(OPTIONS_OF).every(
        ([option, kind]) =>
          fields[option as keyof typeof OPTIONS_OF] === undefined || fields[kind] !== undefined,
      ),
    'cache and owner go with a bind, format and fstype with a disk',
  ),
);

const target = absoluteGuestPath.check(
  z.refine((path) => !path.split('/').includes('..'), 'must not contain ".."'),
  z.refine((path) => mountPath(path) !== '/', 'the root itself cannot be mounted over'),
  z.refine(
    (path) =>
      !TAKEN.some((taken) => mountPath(path) === taken || mountPath(path).startsWith(`${taken}/`)),
    `nothing can be mounted at or below ${TAKEN.join(', ')}`,
  ),
  z.refine((path) => mountPath(path) !== '/dev', 'nothing can be mounted at /dev'),
);

const record = z.record(target, mount).check(
  z.refine((all) => Object.keys(all).length <= MAX_MOUNTS, `there are at most ${MAX_MOUNTS}`),
  z.refine(
    (all) => Object.values(all).filter(({ tmpfs }) => tmpfs === undefined).length <= MAX_DEVICES,
    `a machine has room for ${MAX_DEVICES} mounts that are no tmpfs`,
  ),
  z.refine(
    (all) => new Set(Object.keys(all).map(mountPath)).size === Object.keys(all).length,
    'two mounts have the same path',
  ),
);

/** In the order in which they are mounted: what is above comes first. */
export const mounts: z.ZodMiniType<ResolvedMount[]> = z.pipe(
  record,
  z.transform((all: Record<string, MountFields>) =>
    Object.entries(all)
      .map(([path, fields]) => resolved(mountPath(path), fields))
      .sort((a, b) => depth(a.target) - depth(b.target)),
  ),
);

function resolved(path: string, fields: MountFields): ResolvedMount {
  const { readonly, noexec, nosuid, nodev } = fields;
  return { target: path, source: sourceOf(fields), readonly, noexec, nosuid, nodev };
}

function sourceOf(fields: MountFields): ResolvedMountSource {
  const { bind, volume, tmpfs, disk, cache = 'auto', owner = { uid: 0, gid: 0 } } = fields;
  if (bind !== undefined) return { kind: 'bind', path: resolve(bind), cache, owner };
  if (volume !== undefined) return { kind: 'volume', name: volume };
  if (disk !== undefined) {
    const { format = 'raw', fstype } = fields;
    return { kind: 'disk', path: resolve(disk), format, fstype };
  }
  const { sizeMib, mode } = tmpfs ?? {};
  return { kind: 'tmpfs', sizeBytes: sizeMib === undefined ? undefined : sizeMib * MIB, mode };
}

/** A path as a resolved mount has it: without `//`, `.`, and a slash at the end. */
export function mountPath(path: string): string {
  const normal = posix.normalize(path);
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal;
}

function depth(path: string): number {
  return path.split('/').length;
}

/** For the record: whoever starts the sandbox again may have another working directory. */
export function withAbsoluteSources(all: Record<string, Mount>): Record<string, Mount> {
  return Object.fromEntries(
    Object.entries(all).map(([path, one]): [string, Mount] => {
      if ('bind' in one) return [path, { ...one, bind: resolve(one.bind) }];
      if ('disk' in one) return [path, { ...one, disk: resolve(one.disk) }];
      return [path, one];
    }),
  );
}

/** What a copy of a sandbox has of its mounts: nothing that is the host's. */
export function memoryMounts(all: Record<string, Mount> | undefined): Record<string, Mount> {
  return Object.fromEntries(Object.entries(all ?? {}).filter(([, one]) => 'tmpfs' in one));
}
