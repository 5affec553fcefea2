/** Files and directories whose changes are on the disk when a call returns. */
import { open } from 'node:fs/promises';

const OWNER_ONLY_FILE = 0o600;

/** Makes a file, which must not exist. */
export async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(path, 'wx', OWNER_ONLY_FILE);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** What was made, renamed or removed in the directory stays so. */
export async function syncDirectory(path: string): Promise<void> {
  let directory: Awaited<ReturnType<typeof open>>;
  try {
    directory = await open(path, 'r');
  } catch (error) {
    // What was removed since has nothing to be synced.
    if (isMissing(error)) return;
    throw error;
  }
  try {
    // Some file systems have no notion of it, and keep their directories in order by themselves.
    await directory.sync().catch(ignore('EINVAL', 'ENOTSUP'));
  } finally {
    await directory.close();
  }
}

/** Also where a file is in the place of a directory above it. */
export function isMissing(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

/** For `catch`: nothing for these codes. */
export function ignore(...codes: string[]): (error: unknown) => undefined {
  return (error) => {
    if (!codes.includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
    return undefined;
  };
}
