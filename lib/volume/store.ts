/**
 * `volumes/<name>/` has `volume.json`, and `data/` or `disk.ext4`. It appears by a rename when it
 * is complete, and goes by one. Whoever uses a volume holds a lock of its own in `users/`, which
 * the kernel drops with the process; who begins to use it, or removes it, holds `lock` meanwhile.
 * What begins with a dot is on its way in or out: `.new-<id>` is somebody's while `.lock-<id>` is held.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { ResolvedVolumeOptions } from '../config/volume.js';
import * as z from '../config/zod.js';
import { HostError, VolumeError } from '../errors.js';
import { isMissing, syncDirectory, writeDurably } from '../state/durable.js';
import { ensureDirectory, homeDirectory, stateError } from '../state/home.js';
import { FileLock, isLocked } from '../state/lock.js';
import { createUpperDisk } from '../state/upper-disk.js';

const RECORD = 'volume.json';
const DATA = 'data';
const DISK = 'disk.ext4';
const USERS = 'users';
const LOCK = 'lock';
const STAGING = '.new-';
const STAGING_LOCK = '.lock-';
const OUTGOING = '.old-';
const OWNER_ONLY = 0o700;
const VERSION = 1;
const BUSY_ATTEMPTS = 100;
const BUSY_MS = 20;

export interface VolumeRecord {
  version: number;
  kind: 'directory' | 'disk';
  quotaMib?: number | undefined;
  sizeMib?: number | undefined;
  labels: Record<string, string>;
  createdAt: number;
}

export interface StoredVolume {
  name: string;
  /** Of the directory that is shared, or of the disk. */
  path: string;
  record: VolumeRecord;
}

/** `write`: of a disk, which has one then. */
export type VolumeUse = 'read' | 'write';

const record: z.ZodMiniType<VolumeRecord> = z.strictObject({
  version: z.int().check(z.gte(VERSION), z.lte(VERSION)),
  kind: z.enum(['directory', 'disk']),
  quotaMib: z.optional(z.int()),
  sizeMib: z.optional(z.int()),
  labels: z.record(z.string(), z.string()),
  createdAt: z.int(),
});

function root(): string {
  return join(homeDirectory(), 'volumes');
}

function pathOf(name: string): string {
  return join(root(), name);
}

export async function createVolume(options: ResolvedVolumeOptions): Promise<StoredVolume> {
  const { name, kind, quotaMib, sizeMib, labels } = options;
  const { id, lock } = await claim();
  const staging = join(root(), STAGING + id);
  try {
    await mkdir(staging, { mode: OWNER_ONLY });
    await mkdir(join(staging, USERS), { mode: OWNER_ONLY });
    if (kind === 'directory') await mkdir(join(staging, DATA), { mode: OWNER_ONLY });
    else await createUpperDisk(join(staging, DISK), sizeMib ?? 0, { durable: true });
    const made: VolumeRecord = {
      version: VERSION,
      kind,
      quotaMib,
      sizeMib,
      labels,
      createdAt: Date.now(),
    };
    await writeDurably(join(staging, RECORD), JSON.stringify(made));
    await syncDirectory(staging);
    // A directory that has something in it is not replaced.
    await rename(staging, pathOf(name));
    await syncDirectory(root());
    return { name, path: join(pathOf(name), kind === 'disk' ? DISK : DATA), record: made };
  } catch (cause) {
    if (isTaken(cause)) throw exists(name);
    throw cause instanceof HostError ? cause : stateError('make the volume in', staging, cause);
  } finally {
    await rm(staging, { recursive: true, force: true }).catch(() => {});
    await unlink(join(root(), STAGING_LOCK + id)).catch(() => {});
    await lock.release();
  }
}

/** An id under which nobody sweeps what is made. */
async function claim(): Promise<{ id: string; lock: FileLock }> {
  try {
    await ensureDirectory(root());
    await sweep();
    for (;;) {
      const id = randomUUID();
      const lock = await FileLock.tryAcquire(join(root(), STAGING_LOCK + id));
      // One that sweeps may have been quicker.
      if (lock !== undefined) return { id, lock };
    }
  } catch (cause) {
    throw stateError('make a volume in', root(), cause);
  }
}

export async function readVolume(name: string): Promise<StoredVolume> {
  const found = await find(name);
  if (found === undefined) throw notFound(name);
  return found;
}

/** Those that can be read, the newest first. */
export async function readVolumes(): Promise<StoredVolume[]> {
  const names = await readdir(root()).catch((error: unknown) => {
    if (isMissing(error)) return [];
    throw stateError('read', root(), error);
  });
  const all: StoredVolume[] = [];
  for (const name of names) {
    if (name.startsWith('.')) continue;
    const found = await find(name).catch(unlessDamaged);
    if (found !== undefined) all.push(found);
  }
  return all.sort((a, b) => b.record.createdAt - a.record.createdAt || (a.name < b.name ? -1 : 1));
}

/** Also one that is damaged. */
export async function removeVolume(name: string): Promise<void> {
  await exclusively(name, async () => {
    const user = (await users(name))[0];
    if (user !== undefined) {
      throw new VolumeError(
        'ERR_VOLUME_IN_USE',
        `the volume "${name}" is used by the sandbox "${user.sandbox}". Stop it first`,
        { context: { name, sandbox: user.sandbox } },
      );
    }
    const outgoing = join(root(), OUTGOING + randomUUID());
    await rename(pathOf(name), outgoing);
    await syncDirectory(root());
    await rm(outgoing, { recursive: true, force: true });
  });
  await sweep();
}

/** A use of a volume by a sandbox, until it is released or the process ends. */
export class VolumeLease {
  readonly volume: StoredVolume;
  readonly #path: string;
  readonly #lock: FileLock;

  private constructor(volume: StoredVolume, path: string, lock: FileLock) {
    this.volume = volume;
    this.#path = path;
    this.#lock = lock;
  }

  /** `ERR_VOLUME_IN_USE` for a disk that has a writer, or that has readers and is to have one. */
  static async take(name: string, sandbox: string, use: VolumeUse): Promise<VolumeLease> {
    return exclusively(name, async () => {
      const volume = await readVolume(name);
      if (volume.record.kind === 'disk') await requireFree(name, use);
      const path = join(pathOf(name), USERS, `${use}-${randomUUID()}-${sandbox}`);
      const lock = await FileLock.tryAcquire(path);
      // Nobody else knows its name.
      if (lock === undefined) throw new Error(`${path} was locked by somebody else`);
      return new VolumeLease(volume, path, lock);
    });
  }

  /** Idempotent. */
  async release(): Promise<void> {
    await unlink(this.#path).catch(() => {});
    await this.#lock.release();
  }
}

async function requireFree(name: string, use: VolumeUse): Promise<void> {
  const user = (await users(name)).find((other) => use === 'write' || other.use === 'write');
  if (user === undefined) return;
  throw new VolumeError(
    'ERR_VOLUME_IN_USE',
    `the sandbox "${user.sandbox}" ${user.use === 'write' ? 'writes to' : 'reads'} the disk of the ` +
      `volume "${name}", which has one writer, or readers alone. Stop that one, or mount it ` +
      'readonly in all',
    { context: { name, sandbox: user.sandbox } },
  );
}

/** Those that live; what dead ones left is removed. The caller holds the volume. */
async function users(name: string): Promise<{ use: VolumeUse; sandbox: string }[]> {
  const folder = join(pathOf(name), USERS);
  const live: { use: VolumeUse; sandbox: string }[] = [];
  for (const file of await readdir(folder).catch(noneIfMissing)) {
    const [, use, sandbox] = /^(read|write)-[0-9a-f-]{36}-(.+)$/.exec(file) ?? [];
    if (use === undefined || sandbox === undefined) continue;
    if (await isLocked(join(folder, file))) live.push({ use: use as VolumeUse, sandbox });
    else await unlink(join(folder, file)).catch(() => {});
  }
  return live;
}

/** Nobody begins to use the volume meanwhile, or removes it. */
async function exclusively<Value>(name: string, work: () => Promise<Value>): Promise<Value> {
  const path = join(pathOf(name), LOCK);
  for (let attempt = 0; attempt < BUSY_ATTEMPTS; attempt += 1) {
    let lock: FileLock | undefined;
    try {
      lock = await FileLock.tryAcquire(path);
    } catch (error) {
      if (isMissing(error)) throw notFound(name);
      throw stateError('lock', path, error);
    }
    if (lock !== undefined) {
      try {
        return await work();
      } finally {
        await lock.release();
      }
    }
    await new Promise((resolve) => setTimeout(resolve, BUSY_MS));
  }
  throw new VolumeError(
    'ERR_VOLUME_IN_USE',
    `the volume "${name}" is being removed, or begun to be used, by another process. Try again`,
    { context: { name } },
  );
}

async function find(name: string): Promise<StoredVolume | undefined> {
  const path = join(pathOf(name), RECORD);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (!isMissing(cause)) throw stateError('read', path, cause);
    return undefined;
  }
  const parsed = record.safeParse(jsonOf(text));
  if (parsed.success) {
    const file = parsed.data.kind === 'disk' ? DISK : DATA;
    return { name, path: join(pathOf(name), file), record: parsed.data };
  }
  throw new HostError(
    'ERR_STATE_CORRUPT',
    `${path} cannot be read; it was damaged from outside. Restore it, or remove the volume`,
    { context: { path } },
  );
}

/** Removes what dead processes left. Failures are left for next time. */
async function sweep(): Promise<void> {
  for (const name of await readdir(root()).catch(noneIfMissing)) {
    const path = join(root(), name);
    if (name.startsWith(OUTGOING)) {
      await rm(path, { recursive: true, force: true }).catch(() => {});
    }
    if (!name.startsWith(STAGING_LOCK)) continue;
    const lock = await FileLock.tryAcquire(path).catch(() => undefined);
    if (lock === undefined) continue;
    const staging = join(root(), STAGING + name.slice(STAGING_LOCK.length));
    await rm(staging, { recursive: true, force: true }).catch(() => {});
    await unlink(path).catch(() => {});
    await lock.release();
  }
}

function noneIfMissing(error: unknown): string[] {
  if (isMissing(error)) return [];
  throw stateError('read', root(), error);
}

function unlessDamaged(error: unknown): undefined {
  if (error instanceof HostError && error.code === 'ERR_STATE_CORRUPT') return undefined;
  throw error;
}

function isTaken(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOTEMPTY' || code === 'EEXIST' || code === 'ENOTDIR';
}

function exists(name: string): VolumeError {
  return new VolumeError(
    'ERR_VOLUME_EXISTS',
    `there is a volume named "${name}" already. Use it, remove it, or choose another name`,
    { context: { name } },
  );
}

function notFound(name: string): VolumeError {
  return new VolumeError(
    'ERR_VOLUME_NOT_FOUND',
    `there is no volume named "${name}". Make it with Volume.create(${JSON.stringify(name)})`,
    { context: { name } },
  );
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
