/**
 * Where sandboxes of virtcontainers are on disk: a record in the storage, and a directory with the
 * locks. Readers of one process share a lock, everybody else waits. A sandbox exists as long as its
 * record does; a directory without one is what a killed creation left.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { abortedError, EmbervmError, VirtcontainersError } from '../errors.js';
import { ignore, isMissing } from '../state/durable.js';
import { ensureDirectory, homeDirectory, stateError } from '../state/home.js';
import { FileLock, isLocked } from '../state/lock.js';
import { currentStorage } from '../state/storage/choice.js';
import { corruptRecord, type JsonValue } from '../state/storage/storage.js';
import { sandboxExists, sandboxNotFound } from './errors.js';
import { isSandboxRecord, type SandboxRecord } from './record.js';
import { type LockMode, RwLock } from './rw-lock.js';

const ROOT = 'virtcontainers';
const RECORD = 'sandbox';
const LOCK_FILE = 'lock';
const VM_LOCK_FILE = 'vm-lock';
const OUTGOING = '.outgoing-';
const OWNER_ONLY = 0o700;
const MAX_WAIT_MS = 120_000;
const FIRST_RETRY_MS = 1;
const MAX_RETRY_MS = 50;
/** A directory can be removed between being made and being locked. */
const MAX_ATTEMPTS = 16;

/** Locks of this process, by directory. */
const locks = new Map<string, ProcessLock>();

interface ProcessLock {
  lock: RwLock;
  /** Held for all readers at once. */
  file: Promise<FileLock> | undefined;
  users: number;
}

function keyOf(id: string): string {
  return `${ROOT}/${id}/${RECORD}`;
}

/** Also the identity of a sandbox in this process, where the home may change. */
export function directoryOf(id: string): string {
  return join(homeDirectory(), ROOT, id);
}

/** Ids that can be ones: what is not a name is not looked for. */
function canExist(id: string): boolean {
  return id.length <= 128 && /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(id);
}

export async function loadRecord(id: string): Promise<SandboxRecord | undefined> {
  if (!canExist(id)) return undefined;
  const value = await currentStorage().load(keyOf(id));
  if (value === undefined) return undefined;
  if (!isSandboxRecord(value) || value.id !== id) throw corruptRecord(keyOf(id), 'the storage');
  return value;
}

export async function saveRecord(record: SandboxRecord): Promise<void> {
  await currentStorage().save(keyOf(record.id), record as unknown as JsonValue);
}

export async function listIds(): Promise<string[]> {
  const keys = await currentStorage().list(ROOT);
  return keys.flatMap((key) => {
    const [, id, record, ...more] = key.split('/');
    return record === RECORD && id !== undefined && more.length === 0 ? [id] : [];
  });
}

/** Under the lock of a new sandbox, whose directory goes again where `run` fails. */
export async function withNew<Value>(
  id: string,
  signal: AbortSignal | undefined,
  run: () => Promise<Value>,
): Promise<Value> {
  if ((await exists(id)) === true) throw sandboxExists(id);
  return locked(id, 'write', signal, true, async () => {
    if (await exists(id)) throw sandboxExists(id);
    try {
      return await run();
    } catch (error) {
      await removeDirectory(id);
      throw error;
    }
  });
}

/** Under the lock of a sandbox that is there. */
export async function withExisting<Value>(
  id: string,
  mode: LockMode,
  signal: AbortSignal | undefined,
  run: (record: SandboxRecord) => Promise<Value>,
): Promise<Value> {
  if (!canExist(id)) throw sandboxNotFound(id);
  return locked(id, mode, signal, false, async () => {
    const record = await loadRecord(id);
    if (record === undefined) throw sandboxNotFound(id);
    return run(record);
  });
}

/** Under the lock for writing: the record first, without it there is no sandbox. */
export async function removeSandbox(id: string): Promise<void> {
  await currentStorage().delete(keyOf(id));
  await removeDirectory(id);
}

/** Says that the VM is in this process; the kernel says that it is gone when the process is. */
export async function holdVm(id: string): Promise<FileLock> {
  const path = join(directoryOf(id), VM_LOCK_FILE);
  const lock = await FileLock.tryAcquire(path);
  if (lock !== undefined) return lock;
  throw stateError('lock', path, Object.assign(new Error(), { code: 'EAGAIN' }));
}

/** Whether the VM is in a process that lives. */
export async function isVmHeld(id: string): Promise<boolean> {
  return isLocked(join(directoryOf(id), VM_LOCK_FILE));
}

/** A damaged record is one, too: it may be worth something to somebody. */
async function exists(id: string): Promise<boolean> {
  try {
    return (await loadRecord(id)) !== undefined;
  } catch (error) {
    if (error instanceof EmbervmError && error.code === 'ERR_STATE_CORRUPT') return true;
    throw error;
  }
}

async function locked<Value>(
  id: string,
  mode: LockMode,
  signal: AbortSignal | undefined,
  make: boolean,
  run: () => Promise<Value>,
): Promise<Value> {
  const directory = directoryOf(id);
  const ours = locks.get(directory) ?? { lock: new RwLock(), file: undefined, users: 0 };
  locks.set(directory, ours);
  const release = await ours.lock.acquire(mode, signal).finally(() => forget(directory, ours));
  ours.users += 1;
  try {
    ours.file ??= acquire(id, make, signal);
    await ours.file;
    return await run();
  } finally {
    ours.users -= 1;
    if (ours.users === 0) {
      const { file } = ours;
      ours.file = undefined;
      await file?.then((lock) => lock.release()).catch(() => {});
    }
    release();
    forget(directory, ours);
  }
}

function forget(directory: string, ours: ProcessLock): void {
  if (ours.lock.idle && locks.get(directory) === ours) locks.delete(directory);
}

async function acquire(
  id: string,
  make: boolean,
  signal: AbortSignal | undefined,
): Promise<FileLock> {
  const directory = directoryOf(id);
  const deadline = performance.now() + MAX_WAIT_MS;
  let missing = 0;
  for (let pause = FIRST_RETRY_MS; ; pause = Math.min(2 * pause, MAX_RETRY_MS)) {
    if (signal?.aborted) throw abortedError(signal, `waiting for the sandbox "${id}"`);
    try {
      if (make) await makeDirectory(directory);
      const lock = await FileLock.tryAcquire(join(directory, LOCK_FILE));
      if (lock !== undefined) return lock;
    } catch (error) {
      if (error instanceof EmbervmError) throw error;
      if (!isMissing(error)) throw stateError('lock', directory, error);
      missing += 1;
      if (!make) throw sandboxNotFound(id);
      if (missing === MAX_ATTEMPTS) throw stateError('lock', directory, error);
      continue;
    }
    if (performance.now() > deadline) {
      throw new VirtcontainersError(
        'ERR_SANDBOX_BUSY',
        `the lock of the sandbox "${id}" was held by another process for ${MAX_WAIT_MS} ms`,
        { context: { sandbox: id } },
      );
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

async function makeDirectory(path: string): Promise<void> {
  await mkdir(path, { mode: OWNER_ONLY }).catch(async (error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return ignore('EEXIST')(error);
    await ensureDirectory(path);
  });
}

async function removeDirectory(id: string): Promise<void> {
  const directory = directoryOf(id);
  const outgoing = join(homeDirectory(), ROOT, `${OUTGOING}${randomUUID()}`);
  try {
    // By a rename first, so that nobody sees half a directory.
    await rename(directory, outgoing);
    await rm(outgoing, { recursive: true, force: true });
  } catch (error) {
    if (!isMissing(error)) throw stateError('remove', directory, error);
  }
}
