/**
 * The directory of a sandbox, which is also the claim on its name. It appears
 * by one rename with its lock inside, so a directory without a live owner in
 * its lock is left over from a process that died, and is replaced.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SandboxError } from '../errors.js';
import { sandboxesDirectory, stateError } from './home.js';
import { currentOwner, isAlive, type Owner } from './owner.js';

const LOCK_FILE = 'lock';
const OWNER_ONLY = 0o700;
/** Names with a leading dot can be no sandbox's: directories on their way in or out. */
const INCOMING = '.incoming-';
const OUTGOING = '.outgoing-';
/** Age at which nobody is still moving a directory. */
const ABANDONED_MS = 60 * 60 * 1000;
/** Rivals for one name that die at the wrong moment; more than one is already unheard of. */
const MAX_ATTEMPTS = 8;

interface Lock extends Owner {
  /** Tells two claims of one process apart. */
  token: string;
}

/** A claimed name and its directory. */
export class SandboxDir {
  readonly path: string;
  readonly #root: string;
  readonly #token: string;
  #removal: Promise<void> | undefined;

  private constructor(root: string, name: string, token: string) {
    this.path = join(root, name);
    this.#root = root;
    this.#token = token;
  }

  /** Claims `name`, or throws `ERR_SANDBOX_EXISTS`. */
  static async claim(name: string): Promise<SandboxDir> {
    const root = await sandboxesDirectory();
    const token = randomUUID();
    const incoming = join(root, `${INCOMING}${token}`);
    const lock: Lock = { ...(await currentOwner()), token };
    try {
      await mkdir(incoming, { mode: OWNER_ONLY });
      await writeFile(join(incoming, LOCK_FILE), JSON.stringify(lock), { flag: 'wx', mode: 0o600 });
      await moveIn(incoming, root, name);
    } catch (error) {
      await rm(incoming, { recursive: true, force: true });
      throw error instanceof SandboxError ? error : stateError('write', incoming, error);
    }
    return new SandboxDir(root, name, token);
  }

  /** Gives the name back and deletes everything. Idempotent. */
  remove(): Promise<void> {
    this.#removal ??= moveOut(this.#root, this.path, this.#token);
    return this.#removal;
  }
}

/** Deletes what dead processes left behind. Failures are left for the next time. */
export async function sweepDeadSandboxes(): Promise<void> {
  const root = await sandboxesDirectory();
  for (const name of await readdir(root)) {
    await sweep(root, name).catch(() => {});
  }
}

async function sweep(root: string, name: string): Promise<void> {
  const path = join(root, name);
  const lock = await readLock(path);
  if (lock !== undefined) {
    if (!(await isAlive(lock))) await moveOut(root, path, lock.token);
    return;
  }
  // A claim on its way in has no lock for a moment, one on its way out none at its very end.
  const onItsWay = name.startsWith(INCOMING) || name.startsWith(OUTGOING);
  if (!onItsWay || Date.now() - (await stat(path)).mtimeMs < ABANDONED_MS) return;
  await rm(path, { recursive: true, force: true });
}

async function moveIn(incoming: string, root: string, name: string): Promise<void> {
  const path = join(root, name);
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
    try {
      // Fails where a directory that is not empty has the name; a lock is never absent from one.
      await rename(incoming, path);
      return;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
    }
    const lock = await readLock(path);
    if (lock !== undefined && (await isAlive(lock))) throw taken(name, lock);
    await moveOut(root, path, lock?.token ?? randomUUID());
  }
  throw new SandboxError('ERR_SANDBOX_EXISTS', `the sandbox name "${name}" is being fought over`, {
    context: { name },
  });
}

function taken(name: string, lock: Lock): SandboxError {
  const holder = lock.pid === process.pid ? 'this process' : `process ${lock.pid}`;
  return new SandboxError(
    'ERR_SANDBOX_EXISTS',
    `a sandbox named "${name}" is running in ${holder}. Stop it, or choose another name`,
    { context: { name, pid: lock.pid } },
  );
}

/** By a rename first, so that nobody sees half a directory under a sandbox's name. */
async function moveOut(root: string, path: string, token: string): Promise<void> {
  const outgoing = join(root, `${OUTGOING}${token}`);
  try {
    await rename(path, outgoing);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw stateError('move', path, error);
    return;
  }
  const lock = await readLock(outgoing);
  if (lock !== undefined && lock.token !== token) {
    // Between our look and our rename the dead owner's directory was replaced: put it back.
    await rename(outgoing, path).catch(() => {});
    return;
  }
  await rm(outgoing, { recursive: true, force: true });
}

async function readLock(path: string): Promise<Lock | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(join(path, LOCK_FILE), 'utf8'));
    return isLock(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isLock(value: unknown): value is Lock {
  if (typeof value !== 'object' || value === null) return false;
  const { pid, startTime, bootId, token } = value as Partial<Record<keyof Lock, unknown>>;
  return (
    Number.isSafeInteger(pid) &&
    typeof startTime === 'string' &&
    typeof bootId === 'string' &&
    typeof token === 'string' &&
    /^[0-9a-f-]{36}$/.test(token)
  );
}
