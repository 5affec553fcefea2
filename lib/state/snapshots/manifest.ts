/** What is on record of a snapshot, beside its files. */
import * as z from '../../config/zod.js';
import { type ImagePin, imagePin } from '../image-pin.js';
import type { JsonValue } from '../storage/storage.js';
import { UPPER_FILE } from '../upper-disk.js';

export const MANIFEST_VERSION = 1;
/** Past it a manifest is refused unread. */
export const MAX_MANIFEST_BYTES: number = 4 * 1024 * 1024;
export const DISK_FILE: string = UPPER_FILE;
export const MACHINE_DIRECTORY = 'machine';

/** A machine's memory is a few layers, beside its state and the disk. */
const MAX_FILES = 64;
/** Far above any disk and any memory. */
const MAX_FILE_BYTES = 2 ** 44;
const MAX_TEXT = 4096;
/** The last moment that a Date has. */
const MAX_TIME = 8.64e15;

export interface SnapshotFile {
  /** Relative: the disk, or a file of the machine. */
  path: string;
  bytes: number;
  /** What of it is not zero, in the form of sparse-stream.ts. */
  storedBytes: number;
  /** Of that form, in hexadecimal. */
  sha256: string;
}

export interface SnapshotManifest {
  version: number;
  /** `memory`: a machine that goes on, and its disk; `disk`: the disk of one that has ended. */
  kind: 'memory' | 'disk';
  /** ms since the epoch. */
  createdAt: number;
  /** Name of the sandbox that it is of. */
  source: string;
  description: string;
  labels: Record<string, string>;
  /** What the sandbox was created with. */
  options: { [key: string]: JsonValue };
  /** The read-only part of its root, which is not in the snapshot. */
  base: { bytes: number; sha256: string };
  /** Where that is the root of an image: which, and its key is what `sha256` has. */
  image?: ImagePin | undefined;
  /** The file system of the disk is smaller than the disk. */
  grow: boolean;
  /** What the guest said of itself; `null` for a disk. */
  guest: { kernelRelease: string; agentVersion: string } | null;
  files: SnapshotFile[];
}

const sha256 = z.string().check(z.regex(/^[0-9a-f]{64}$/));
const byteCount = z.int().check(z.gte(0), z.lte(MAX_FILE_BYTES));
const text = z.string().check(z.maxLength(MAX_TEXT));
const path = z.string().check(z.regex(/^(?:upper\.ext4|machine\/(?:state|memory-[0-9a-f]{16}))$/));

const file = z.strictObject({ path, bytes: byteCount, storedBytes: byteCount, sha256 });

const files = z.array(file).check(
  z.minLength(1),
  z.maxLength(MAX_FILES),
  z.refine((all) => new Set(all.map((one) => one.path)).size === all.length),
  z.refine((all) => all.some((one) => one.path === DISK_FILE)),
);

const manifest: z.ZodMiniType<SnapshotManifest> = z
  .strictObject({
    version: z.int().check(z.gte(MANIFEST_VERSION), z.lte(MANIFEST_VERSION)),
    kind: z.enum(['memory', 'disk']),
    createdAt: z.int().check(z.gte(0), z.lte(MAX_TIME)),
    source: text,
    description: text,
    labels: z.record(text, text),
    options: z.record(z.string(), z.custom<JsonValue>()),
    base: z.strictObject({ bytes: byteCount, sha256 }),
    image: z.optional(imagePin),
    grow: z.boolean(),
    guest: z.nullable(z.strictObject({ kernelRelease: text, agentVersion: text })),
    files,
  })
  .check(
    z.refine((all) => (all.kind === 'memory') === (all.guest !== null)),
    z.refine(
      ({ kind, files: list }) =>
        (kind === 'memory') ===
        list.some(({ path: name }) => name === `${MACHINE_DIRECTORY}/state`),
    ),
  );

/** `undefined` for what is none, or of another version. */
export function parseManifest(value: unknown): SnapshotManifest | undefined {
  const parsed = manifest.safeParse(value);
  return parsed.success ? parsed.data : undefined;
}

/** Where there is a manifest at all, but not of a version that is read here. */
export function isOtherVersion(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || !('version' in value)) return false;
  return typeof value.version === 'number' && value.version !== MANIFEST_VERSION;
}
