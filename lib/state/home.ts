/** Where embervm keeps what must be on disk. */
import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { HostError } from '../errors.js';

const OWNER_ONLY = 0o700;

/** `$EMBERVM_HOME`, or `~/.embervm`. */
export function homeDirectory(): string {
  const configured = process.env.EMBERVM_HOME;
  return resolve(
    configured === undefined || configured === '' ? join(homedir(), '.embervm') : configured,
  );
}

/** Directory of all sandboxes, made when it is missing. */
export async function sandboxesDirectory(): Promise<string> {
  const path = join(homeDirectory(), 'sandboxes');
  try {
    await mkdir(path, { recursive: true, mode: OWNER_ONLY });
  } catch (cause) {
    throw stateError('make', path, cause);
  }
  return path;
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
