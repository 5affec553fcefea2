/** What every test with a guest needs. */
import { execFileSync } from 'node:child_process';
import {
  accessSync,
  constants,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe } from 'vitest';
import type { SandboxOptions } from '../../lib/index.js';
import { packageRoot } from '../../lib/native/package-root.js';

function whyNoKvm(): string | undefined {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return `/dev/kvm cannot be used here: ${(error as NodeJS.ErrnoException).code}`;
  }
}

const missing = whyNoKvm();
if (missing !== undefined) console.warn(`skipped: ${missing}`);

/** `describe` where machines can run; the reason is printed where they cannot. */
export const describeGuest: typeof describe.skip = describe.skipIf(missing !== undefined);

/** Emulated hosts that are busy with something else boot slowly. */
export const BOOT_TIMEOUT_MS = 600_000;

/** The smallest sandbox that boots everywhere. */
export function small(options: SandboxOptions = {}): SandboxOptions {
  return { memoryMib: 128, bootTimeoutMs: BOOT_TIMEOUT_MS, ...options };
}

/** What the first sandbox of each kind leaves for all test files; emptied before each run. */
export const SHARED_TEMPLATES: string = join(packageRoot(), 'build/test/templates');

/** A home of this test file's own, removed at its end. */
export function useHome(templates: 'shared' | 'own' = 'shared'): string {
  const inherited = process.env.EMBERVM_HOME;
  const home = mkdtempSync(join(tmpdir(), 'embervm-home-'));
  process.env.EMBERVM_HOME = home;
  if (templates === 'shared') {
    mkdirSync(SHARED_TEMPLATES, { recursive: true });
    symlinkSync(SHARED_TEMPLATES, join(home, 'templates'));
  }
  afterAll(() => {
    if (inherited === undefined) delete process.env.EMBERVM_HOME;
    else process.env.EMBERVM_HOME = inherited;
    rmSync(home, { recursive: true, force: true });
  });
  return home;
}

/** Compiles test/fixtures/<name>.c to a static program that runs in any guest. */
export function compileForGuest(name: string, flags: string[] = []): Buffer {
  const directory = mkdtempSync(join(tmpdir(), 'embervm-cc-'));
  try {
    const source = join(packageRoot(), 'test/fixtures', `${name}.c`);
    const output = join(directory, name);
    const headers = ['/usr/include', '/usr/include/x86_64-linux-gnu'].flatMap((path) => [
      '-idirafter',
      path,
    ]);
    const options = ['-std=c17', '-O2', '-static', '-s', '-Wall', '-Wextra', '-Werror'];
    execFileSync('musl-gcc', [...options, ...flags, ...headers, '-o', output, source], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    return readFileSync(output);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Path of a file that set-up makes. */
export function asset(name: string): string {
  return join(packageRoot(), 'build/guest', name);
}
