/** Where embervm keeps what must be on disk. */
import { mkdir, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { HostError } from '../errors.js';

const OWNER_ONLY = 0o700;

/** `$EMBERVM_HOME`, or `~/.embervm`. */
export function homeDirectory(): string {
  const configured = process.env.EMBERVM_HOME;
  return resolve(
    configured === undefined || configured === '' ? join(homedir(), '.embervm') : configured,
  );
}

/** Directory of all sandboxes, which may be missing. */
export function sandboxesPath(): string {
  return join(homeDirectory(), 'sandboxes');
}

/** Directory of all sandboxes, made when it is missing. */
export async function sandboxesDirectory(): Promise<string> {
  const path = sandboxesPath();
  try {
    await ensureDirectory(path);
  } catch (cause) {
    throw stateError('make', path, cause);
  }
  return path;
}

/** Not `recursive` of mkdir, which never returns where a file system refuses with ENOENT. */
export async function ensureDirectory(path: string): Promise<void> {
  const parent = dirname(path);
  if (await makeDirectory(path, parent !== path)) return;
  await ensureDirectory(parent);
  await makeDirectory(path, false);
}

/** False when the parent is missing, and that is no error yet. */
async function makeDirectory(path: string, mayLackParent: boolean): Promise<boolean> {
  try {
    await mkdir(path, { mode: OWNER_ONLY });
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' && mayLackParent) return false;
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return true;
    throw error;
  }
}

/** `ERR_STATE_DIR` for a failed operation on the state directory. */
export function stateError(action: string, path: string, cause: unknown): HostError {
  const { code, syscall, message } = cause as NodeJS.ErrnoException;
  return new HostError(
    'ERR_STATE_DIR',
    `cannot ${action} ${path}: ${code ?? message}. Make it writable for this user, or point ` +
      'EMBERVM_HOME at another directory',
    { cause, errno: code, syscall, context: { path } },
  );
}
