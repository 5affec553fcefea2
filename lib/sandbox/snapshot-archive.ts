/**
 * A snapshot as one file: a tar archive, packed with gzip or not. Its first member, `snapshot.json`,
 * has the manifest and a digest of it; the others are the files that the manifest names, each in
 * the form of sparse-stream.ts, of which the manifest has the length and the digest.
 */
import { createHash } from 'node:crypto';
import { memoryFileMib } from '../config/host-limits.js';
import type { SandboxOptions } from '../config/sandbox.js';
import { checkOrigin } from '../config/snapshot.js';
import { MachineError } from '../errors.js';
import { MANIFEST_FILE } from '../state/snapshots/draft.js';
import { archiveInvalid } from '../state/snapshots/errors.js';
import {
  DISK_FILE,
  isOtherVersion,
  parseManifest,
  type SnapshotManifest,
} from '../state/snapshots/manifest.js';

const FORMAT = 'embervm-snapshot';
const VERSION = 1;
const MIB = 1024 * 1024;
/** As the directories of snapshots have it. */
export const HEADER_MEMBER: string = MANIFEST_FILE;

export interface ArchiveHeader {
  name: string;
  manifest: SnapshotManifest;
}

export function encodeHeader({ name, manifest }: ArchiveHeader): Buffer {
  const sha256 = digestOf({ name, manifest });
  return Buffer.from(JSON.stringify({ format: FORMAT, version: VERSION, sha256, name, manifest }));
}

/** Nothing else of `archive` was looked at yet. */
export function parseHeader(bytes: Buffer, archive: string): ArchiveHeader {
  const { format, version, sha256, name, manifest: value } = jsonOf(bytes);
  if (format !== FORMAT) throw archiveInvalid(archive, 'it does not begin with a manifest');
  if (version !== VERSION || isOtherVersion(value)) throw otherVersion(archive);
  if (typeof name !== 'string' || sha256 !== digestOf({ name, manifest: value })) {
    throw archiveInvalid(archive, 'its manifest was changed');
  }
  const manifest = parseManifest(value);
  if (manifest === undefined) throw archiveInvalid(archive, 'its manifest is no manifest');
  requireConsistent(manifest, archive);
  return { name, manifest };
}

/**
 * With a path of a host in its options a snapshot is of no use on another; and one from elsewhere
 * must not choose files of this host for its guest.
 */
export function requirePortable(options: object, what: string): void {
  const { hostPath } = checkOrigin(options as SandboxOptions);
  if (hostPath === undefined) return;
  const whose = hostPath === 'kernel' ? 'a guest kernel' : 'a disk of the host as its image';
  throw new MachineError(
    'ERR_SNAPSHOT_UNSUPPORTED',
    `${what} has ${whose}, which is not part of it: it is of use on the host that took it alone`,
    { context: { option: hostPath } },
  );
}

/** What would be found out when it is used, or never. */
function requireConsistent({ options, files }: SnapshotManifest, archive: string): void {
  let resolved: ReturnType<typeof checkOrigin>['options'];
  try {
    resolved = checkOrigin(options as SandboxOptions).options;
  } catch (cause) {
    const why = `what its sandbox was created with is not possible here: ${(cause as Error).message}`;
    throw archiveInvalid(archive, why, cause);
  }
  const { rootDiskMib } = resolved;
  const memoryMib = memoryFileMib(resolved);
  for (const { path, bytes, storedBytes } of files) {
    const isMemory = path.startsWith('machine/memory-');
    const mib = path === DISK_FILE ? rootDiskMib : isMemory ? memoryMib : undefined;
    if (mib !== undefined && bytes !== mib * MIB) {
      throw archiveInvalid(archive, `${path} has ${bytes} bytes, not ${mib} MiB`);
    }
    if (mib === undefined && bytes > MAX_STATE_BYTES) {
      throw archiveInvalid(archive, `${path} has ${bytes} bytes`);
    }
    if (storedBytes > mostStored(bytes)) {
      throw archiveInvalid(archive, `${path} takes more bytes than it has`);
    }
  }
}

/** native/machine/snapshot.h kMaxStateBytes. */
const MAX_STATE_BYTES = 64 * MIB;
/** As sparse-stream.ts has them. */
const BLOCK_BYTES = 64 * 1024;
const OFFSET_BYTES = 8;

function mostStored(bytes: number): number {
  return bytes + Math.ceil(bytes / BLOCK_BYTES) * OFFSET_BYTES;
}

function digestOf(value: { name: unknown; manifest: unknown }): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex');
}

function jsonOf(bytes: Buffer): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    return Object(value) as Record<string, unknown>;
  } catch {
    return {};
  }
}

function otherVersion(archive: string): MachineError {
  return new MachineError(
    'ERR_SNAPSHOT_VERSION',
    `${archive} has another version than this package reads (${VERSION}). Export it with this ` +
      'version of the package, or import it with the one that exported it',
    { context: { path: archive } },
  );
}
