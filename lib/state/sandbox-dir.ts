/**
 * The directory of a sandbox and the claim on its name. Whoever holds the lock
 * inside may change what is there; a directory that nobody holds belongs to a
 * sandbox that has ended, or, without a record, to nobody.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { HostError, SandboxError } from '../errors.js';
import { isMissing } from './durable.js';
import { sandboxesDirectory, sandboxesPath, stateError } from './home.js';
import { FileLock, isLocked } from './lock.js';
import { SandboxRecords, type StateRecord, toResultRecord } from './records.js';
import { currentStorage } from './storage/choice.js';

const LOCK_FILE = 'lock';
const OWNER_ONLY = 0o700;
/** No sandbox's name begins with a dot: a directory on its way out. */
const OUTGOING = '.outgoing-';
/** Age at which nobody is still removing a directory. */
const ABANDONED_MS = 60 * 60 * 1000;
/** Others look into a lock for a moment, such as the sweep; only a sandbox holds it for longer. */
const BUSY_ATTEMPTS = 6;
const BUSY_MS = 20;
/** How often others may remove a directory while it is claimed; more than once is unheard of. */
const MAX_REMOVALS = 100;

/** A sandbox that this process holds the lock of. */
export class SandboxDir {
  readonly name: string;
  readonly path: string;
  readonly records: SandboxRecords;
  readonly #root: string;
  readonly #lock: FileLock;
  #end: Promise<void> | undefined;

  private constructor(root: string, name: string, records: SandboxRecords, lock: FileLock) {
    this.name = name;
    this.path = join(root, name);
    this.records = records;
    this.#root = root;
    this.#lock = lock;
  }

  /** Claims `name` for a new sandbox, or throws `ERR_SANDBOX_EXISTS`. */
  static async claim(name: string): Promise<SandboxDir> {
    const directory = await SandboxDir.#hold(name, true);
    if (directory === undefined) throw await taken(name);
    try {
      if (await directory.#isLeftOver()) {
        await directory.#empty();
        return directory;
      }
    } catch (error) {
      await directory.release();
      throw error;
    }
    await directory.release();
    throw alreadyThere(name, 'has ended. Start it, remove it, replace it, or choose another name');
  }

  /** Takes hold of a sandbox that has ended. */
  static async open(name: string): Promise<SandboxDir> {
    const directory = await SandboxDir.openAny(name);
    try {
      if (!(await directory.#isLeftOver())) return directory;
      await directory.remove();
    } catch (error) {
      await directory.release();
      throw error;
    }
    throw notFound(name);
  }

  /** As {@link open}, also where the records are damaged: for whoever removes it. */
  static async openAny(name: string): Promise<SandboxDir> {
    const directory = await SandboxDir.#hold(name, false);
    if (directory === undefined) throw await stillRunning(name);
    return directory;
  }

  /** Keeps everything and lets others have it. Idempotent. */
  release(): Promise<void> {
    this.#end ??= this.#lock.release();
    return this.#end;
  }

  /** Deletes everything and gives the name back. Idempotent. */
  remove(): Promise<void> {
    this.#end ??= this.#remove();
    return this.#end;
  }

  /** Whether it belongs to somebody, as far as this storage and the lock know. */
  async isKnown(): Promise<boolean> {
    return !(await this.#isLeftOver());
  }

  /** From now on the sandbox is not removed because its process died. */
  async keep(): Promise<void> {
    await this.#lock.mark();
  }

  static async #hold(name: string, make: boolean): Promise<SandboxDir | undefined> {
    const root = await sandboxesDirectory();
    const path = join(root, name);
    let removed = 0;
    for (let attempt = 1; ; ) {
      try {
        if (make) await makeDirectory(path);
        const lock = await FileLock.tryAcquire(join(path, LOCK_FILE));
        if (lock !== undefined) {
          return new SandboxDir(root, name, new SandboxRecords(currentStorage()), lock);
        }
      } catch (error) {
        if (error instanceof HostError) throw error;
        const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
        if (missing && !make) throw notFound(name);
        // It may be removed between being made and being locked.
        removed += 1;
        if (!missing || removed > MAX_REMOVALS) throw stateError('lock', path, error);
        continue;
      }
      if (attempt === BUSY_ATTEMPTS) return undefined;
      attempt += 1;
      await new Promise((resolve) => setTimeout(resolve, BUSY_MS));
    }
  }

  /** True when there is nothing that anybody asked to keep. */
  async #isLeftOver(): Promise<boolean> {
    try {
      const config = await this.records.config(this.name);
      // With the mark and without a record, the record is in another storage.
      return config === undefined ? !(await this.#lock.isMarked()) : config.ephemeral;
    } catch (error) {
      // Damaged from outside: it may be worth something to somebody.
      if (error instanceof HostError && error.code === 'ERR_STATE_CORRUPT') return false;
      throw error;
    }
  }

  async #empty(): Promise<void> {
    await this.records.delete(this.name);
    for (const entry of await readdir(this.path)) {
      if (entry === LOCK_FILE) continue;
      await rm(join(this.path, entry), { recursive: true, force: true });
    }
  }

  async #remove(): Promise<void> {
    const outgoing = join(this.#root, `${OUTGOING}${randomUUID()}`);
    try {
      await this.records.delete(this.name);
      // By a rename first, so that nobody sees half a directory under a sandbox's name.
      await rename(this.path, outgoing);
    } catch (error) {
      if (error instanceof HostError) throw error;
      const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
      if (!missing) throw stateError('move', this.path, error);
    } finally {
      await this.#lock.release();
    }
    await rm(outgoing, { recursive: true, force: true });
  }
}

/** Whether somebody holds the sandbox: it is starting, running or being removed. */
export async function isHeld(name: string): Promise<boolean> {
  const root = await sandboxesDirectory();
  return isLocked(join(root, name, LOCK_FILE));
}

/** The state of a sandbox whose process ended without ending it. */
export function asHostExit(state: StateRecord): StateRecord {
  const result = toResultRecord({
    name: '',
    status: 'crashed',
    exitCode: null,
    signal: null,
    reason: 'host_exit',
    observedAt: new Date(),
  });
  return { ...state, status: 'crashed', result };
}

/** Deletes what dead processes left and nobody asked to keep. Failures are left for next time. */
export async function sweepDeadSandboxes(): Promise<void> {
  const root = sandboxesPath();
  const names = await readdir(root).catch((cause: unknown): string[] => {
    // None is made: there may be no room, and whoever wants to make some comes by here.
    if (isMissing(cause)) return [];
    throw stateError('read', root, cause);
  });
  for (const name of names) {
    await sweep(root, name).catch(() => {});
  }
}

async function sweep(root: string, name: string): Promise<void> {
  const path = join(root, name);
  if (name.startsWith('.')) {
    if (Date.now() - (await stat(path)).mtimeMs < ABANDONED_MS) return;
    await rm(path, { recursive: true, force: true });
    return;
  }
  const lock = join(path, LOCK_FILE);
  // Only what once belonged to a sandbox is ours to remove.
  if (!(await exists(lock)) || (await isLocked(lock))) return;
  const records = new SandboxRecords(currentStorage());
  const config = await records.config(name);
  if (config !== undefined && !config.ephemeral) return;
  // Looks again under the lock, and removes it then.
  await (await SandboxDir.open(name)).release();
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function makeDirectory(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: OWNER_ONLY });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

async function holder(name: string): Promise<{ text: string; pid?: number }> {
  const records = new SandboxRecords(currentStorage());
  const state = await records.state(name).catch(() => undefined);
  if (state === undefined) return { text: 'another process' };
  const text = state.pid === process.pid ? 'this process' : `process ${state.pid}`;
  return { text, pid: state.pid };
}

async function taken(name: string): Promise<SandboxError> {
  const { text, pid } = await holder(name);
  return alreadyThere(name, `runs in ${text}. Stop it, or choose another name`, pid);
}

function alreadyThere(name: string, how: string, pid?: number): SandboxError {
  return new SandboxError('ERR_SANDBOX_EXISTS', `a sandbox named "${name}" ${how}`, {
    context: { name, ...(pid === undefined ? {} : { pid }) },
  });
}

async function stillRunning(name: string): Promise<SandboxError> {
  const { text, pid } = await holder(name);
  return new SandboxError(
    'ERR_SANDBOX_STILL_RUNNING',
    `the sandbox "${name}" runs in ${text}. Stop it first`,
    { context: { name, ...(pid === undefined ? {} : { pid }) } },
  );
}

export function notFound(name: string): SandboxError {
  return new SandboxError('ERR_SANDBOX_NOT_FOUND', `there is no sandbox named "${name}"`, {
    context: { name },
  });
}
