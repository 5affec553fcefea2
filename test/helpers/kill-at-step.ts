/** Runs a process again and again, and kills it a step later each time. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll } from 'vitest';

const source = fileURLToPath(new URL('../fixtures/kill-at-step.c', import.meta.url));
/** Far above what any of the calls takes; a loop that never ends must not run for ever. */
const MAX_STEPS = 200;

export interface KillAtStep {
  /** What changes files below `directory` when nobody kills it, in order. */
  trace(directory: string, args: string[]): Promise<string[]>;
  /** Runs until it is not killed any more; `afterEach` is called after each death. */
  everyStep(
    directory: string,
    args: string[],
    check: (step: number) => Promise<void>,
  ): Promise<number>;
}

/** `args` are those of a Node process. */
export function useKillAtStep(): KillAtStep {
  let scratch = '';
  let library = '';
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'embervm-kill-'));
    library = join(scratch, 'kill.so');
    // Not optimised: the C library's headers would replace by macros what is to be caught.
    execFileSync('gcc', ['-shared', '-fPIC', '-Wall', '-Werror', '-o', library, source, '-ldl']);
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  async function run(args: string[], more: NodeJS.ProcessEnv): Promise<string | null> {
    const child = spawn(process.execPath, args, {
      stdio: ['ignore', 'ignore', 'pipe'],
      // The kernel would do the work of the ring, where nobody can count it.
      env: { ...process.env, LD_PRELOAD: library, UV_USE_IO_URING: '0', ...more },
    });
    let stderr = '';
    child.stderr.on('data', (chunk) => {
      stderr += String(chunk);
    });
    const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
    if (code !== 0 && signal !== 'SIGKILL') throw new Error(`it ended with ${code}: ${stderr}`);
    return signal;
  }

  return {
    async trace(directory, args) {
      const file = join(scratch, 'trace');
      rmSync(file, { force: true });
      await run(args, { KILL_BELOW: directory, KILL_TRACE: file });
      return readFileSync(file, 'utf8').trimEnd().split('\n');
    },
    async everyStep(directory, args, check) {
      for (let step = 1; step <= MAX_STEPS; step += 1) {
        const signal = await run(args, { KILL_BELOW: directory, KILL_AT: String(step) });
        if (signal === null) return step - 1;
        await check(step);
      }
      throw new Error(`it took more than ${MAX_STEPS} steps`);
    },
  };
}
