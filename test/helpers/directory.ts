/** A directory of the test's own, removed afterwards. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach } from 'vitest';

export function useDirectory(): () => Promise<string> {
  const made: string[] = [];
  afterEach(async () => {
    for (const path of made.splice(0)) await rm(path, { recursive: true, force: true });
  });
  return async () => {
    const path = await mkdtemp(join(tmpdir(), 'embervm-test-'));
    made.push(path);
    return path;
  };
}

/** One for all tests of a file. */
export function makeDirectory(): { directory: Promise<string>; remove: () => Promise<void> } {
  const directory = mkdtemp(join(tmpdir(), 'embervm-test-'));
  return { directory, remove: async () => rm(await directory, { recursive: true, force: true }) };
}
