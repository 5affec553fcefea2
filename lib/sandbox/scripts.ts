/** Scripts that a sandbox is created with: programs of its own, first on the PATH of its commands. */
import { posix } from 'node:path';
import type { SandboxFiles } from './files.js';

export const SCRIPTS_DIRECTORY = '/.embervm/scripts';

const EXECUTABLE = 0o755;
/** What the agent gives a command that has none. */
const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

const hasScripts = (scripts: Readonly<Record<string, string>>): boolean =>
  Object.keys(scripts).length > 0;

/** Writes them; those of an earlier boot are on the disk still, and are replaced. */
export async function installScripts(
  files: SandboxFiles,
  scripts: Readonly<Record<string, string>>,
): Promise<void> {
  if (!hasScripts(scripts)) return;
  await files.mkdir(SCRIPTS_DIRECTORY, { mode: EXECUTABLE });
  for (const [name, body] of Object.entries(scripts)) {
    const path = posix.join(SCRIPTS_DIRECTORY, name);
    await files.write(path, body, { mode: EXECUTABLE });
  }
}

/** The environment of a command, in which they are found by name. */
export function withScripts(
  env: Readonly<Record<string, string>>,
  scripts: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  if (!hasScripts(scripts)) return env;
  return { ...env, PATH: `${SCRIPTS_DIRECTORY}:${env.PATH ?? DEFAULT_PATH}` };
}
