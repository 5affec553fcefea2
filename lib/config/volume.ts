/** Options of volumes. */
import { ConfigError } from '../errors.js';
import { sandboxName } from './common.js';
import { parseConfig } from './parse.js';
import { labels } from './sandbox.js';
import { quotaMib } from './shared-dirs.js';
import * as z from './zod.js';

/** What the smallest file system needs, and what the templates' group descriptors have room for. */
const MIN_DISK_MIB = 64;
const MAX_DISK_MIB = 256 * 1024;

export interface VolumeOptions {
  /**
   * `directory` (the default): of this host, shared by any number of sandboxes. `disk`: an ext4
   * file system of its own, for one sandbox that writes, or several that read.
   */
  kind?: 'directory' | 'disk' | undefined;
  /** Of a directory: how much sandboxes may have in it, in MiB; default: as much as there is. */
  quotaMib?: number | undefined;
  /** Of a disk, in MiB: takes as much of this host's disk as is written. */
  sizeMib?: number | undefined;
  /** For finding it: `Volume.list({ labels })`. */
  labels?: Record<string, string> | undefined;
}

export interface VolumeListOptions {
  /** Only volumes that have all of these. */
  labels?: Record<string, string> | undefined;
}

export interface ResolvedVolumeOptions {
  name: string;
  kind: 'directory' | 'disk';
  quotaMib?: number | undefined;
  sizeMib?: number | undefined;
  labels: Record<string, string>;
}

const create = z
  .strictObject({
    name: sandboxName,
    kind: z._default(z.enum(['directory', 'disk']), 'directory'),
    quotaMib: z.optional(quotaMib),
    sizeMib: z.optional(
      z
        .int()
        .check(
          z.gte(MIN_DISK_MIB, 'the file system needs that much for itself (MiB)'),
          z.lte(MAX_DISK_MIB, 'the file system grows no further (MiB)'),
        ),
    ),
    labels: z._default(labels, {}),
  })
  .check(
    z.refine(({ kind, sizeMib }) => (kind === 'disk') === (sizeMib !== undefined), {
      message: 'a disk has a size, and a directory has none',
      path: ['sizeMib'],
    }),
    z.refine(({ kind, quotaMib: quota }) => kind === 'directory' || quota === undefined, {
      message: 'a disk has a size in its place',
      path: ['quotaMib'],
    }),
  );

const list = z.strictObject({ labels: z._default(labels, {}) });

export function parseVolumeOptions(name: unknown, input: unknown): ResolvedVolumeOptions {
  if (input !== undefined && (typeof input !== 'object' || input === null)) {
    throw new ConfigError('ERR_INVALID_CONFIG', 'invalid volume options: they must be an object');
  }
  return parseConfig(create, { ...input, name }, 'invalid volume options');
}

export function parseVolumeName(input: unknown): string {
  return parseConfig(z.strictObject({ name: sandboxName }), { name: input }, 'invalid volume name')
    .name;
}

export function parseVolumeList(input: unknown): { labels: Record<string, string> } {
  return parseConfig(list, input ?? {}, 'invalid list options');
}
