/** The sandboxes that run in this thread, and how one gives way to another of its name. */
import { join } from 'node:path';
import { SandboxError } from '../errors.js';
import { sandboxesPath } from '../state/home.js';
import { isOver } from '../state/types.js';
import { UPPER_FILE } from '../state/upper-disk.js';
import type { SandboxCore } from './core.js';

/** By their directories: names repeat under another `EMBERVM_HOME`. */
const running = new Map<string, SandboxCore>();

/** Where the sandbox of a name is, under the home as it is now. */
export function sandboxPath(name: string): string {
  return join(sandboxesPath(), name);
}

/** The writable disk of the sandbox in a directory. */
export function upperPath(directory: string): string {
  return join(directory, UPPER_FILE);
}

export function register(path: string, core: SandboxCore): void {
  running.set(path, core);
}

export function unregister(path: string): void {
  running.delete(path);
}

/** The sandbox of that name, if it runs here; waits for the end of one that is ending. */
export async function runningHere(name: string): Promise<SandboxCore | undefined> {
  const path = sandboxPath(name);
  for (;;) {
    const core = running.get(path);
    if (core === undefined || !isOver(core.status)) return core;
    await core.lifecycle.ended.catch(() => {});
    if (running.get(path) === core) running.delete(path);
  }
}

export function allRunningHere(): SandboxCore[] {
  const root = sandboxPath('.');
  return [...running].flatMap(([path, core]) =>
    join(path, '..') === root && !isOver(core.status) ? [core] : [],
  );
}

/** For a call that only the process of the sandbox can answer. */
export function notOwner(name: string, pid: number, what: string): SandboxError {
  const where = pid === process.pid ? 'another thread of this process' : `process ${pid}`;
  return new SandboxError(
    'ERR_SANDBOX_NOT_OWNER',
    `cannot ${what} the sandbox "${name}" from here: it runs in ${where}. Make the call there`,
    { context: { name, pid } },
  );
}
