/** Programs that are run beside a sandbox: shims and proxies that somebody else wrote. */
import { type ChildProcess, spawn } from 'node:child_process';
import { type FileHandle, open } from 'node:fs/promises';
import { VirtcontainersError } from '../errors.js';

const POLL_MS = 20;

/** Those that this process started, which alone it may kill: a number may be somebody else's. */
const children = new Map<number, ChildProcess>();

export interface HelperOptions {
  /** In a session of its own. */
  session: boolean;
  /** Path of a terminal for stdin, stdout and stderr. */
  console?: string | undefined;
  /** Have stdin, stdout and stderr of this process; else nothing. */
  inherit?: boolean | undefined;
}

/** Starts it and does not wait for its end. Resolves with its process id. */
export async function startHelper(
  path: string,
  args: readonly string[],
  { session, console: terminal = '', inherit = false }: HelperOptions,
): Promise<number> {
  let file: FileHandle | undefined;
  try {
    if (terminal !== '') file = await open(terminal, 'r+');
    const stdio = file?.fd ?? (inherit ? 'inherit' : 'ignore');
    const child = spawn(path, args, { detached: session, stdio: [stdio, stdio, stdio] });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      // Stays: a signal that cannot be sent later is an error event, too.
      child.on('error', reject);
    });
    child.unref();
    const pid = child.pid ?? 0;
    children.set(pid, child);
    child.once('exit', () => children.delete(pid));
    return pid;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new VirtcontainersError('ERR_HELPER_FAILED', `cannot run ${path}: ${message}`, {
      cause,
      errno: code,
      context: { path },
    });
  } finally {
    await file?.close();
  }
}

/** Also true for a process of another user. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** False when it has not ended within `timeoutMs`. */
export async function waitForEnd(pid: number, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (isAlive(pid)) {
    if (performance.now() >= deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return true;
}

/** Where this process started it; nothing happens to others. */
export function signalHelper(pid: number, signal: NodeJS.Signals): void {
  children.get(pid)?.kill(signal);
}
