/** What a sandbox that runs can be resized to. */
import { ConfigError } from '../errors.js';
import { abortSignal } from './common.js';
import { MEMORY_STEP_MIB, memoryMib, vcpuCount } from './host-limits.js';
import { parseConfig } from './parse.js';
import type { VmConfig } from './sandbox.js';
import * as z from './zod.js';

/** One of the two, or both. */
export interface ResizeOptions {
  /** Virtual CPUs on line, at most `maxCpus`. */
  cpus?: number | undefined;
  /** Guest memory in MiB, from `memoryMib` to `maxMemoryMib`, by steps of 4. */
  memoryMib?: number | undefined;
  /** Ends the waiting. The guest goes on to where it was told. */
  signal?: AbortSignal | undefined;
}

const resizing: z.ZodMiniType<ResizeOptions> = z
  .strictObject({
    cpus: z.optional(vcpuCount).check(z.describe('virtual CPUs on line')),
    memoryMib: z.optional(memoryMib).check(z.describe('guest memory in MiB')),
    signal: z.optional(abortSignal).check(z.describe('ends the waiting')),
  })
  .check(
    z.refine(({ cpus, memoryMib }) => cpus !== undefined || memoryMib !== undefined, {
      path: ['cpus'],
      message: 'or memoryMib has to be given',
    }),
  );

/** What a sandbox that was created with `vm` can be resized to. */
export function parseResizeOptions(
  input: unknown,
  vm: Pick<VmConfig, 'maxCpus' | 'memoryMib' | 'maxMemoryMib'>,
): ResizeOptions {
  const options = parseConfig(resizing, input, 'invalid resize options');
  const { cpus = 1, memoryMib = vm.memoryMib } = options;
  const refuse = (why: string, context: Record<string, string | number>): ConfigError =>
    new ConfigError('ERR_INVALID_CONFIG', `invalid resize options: the sandbox ${why}`, {
      context,
    });
  const { maxCpus, maxMemoryMib } = vm;
  if (cpus > maxCpus) {
    const why = `was created for at most ${maxCpus} cpus. Create one with a higher maxCpus`;
    throw refuse(why, { option: 'cpus', cpus, maxCpus });
  }
  const context = { option: 'memoryMib', memoryMib, bootMemoryMib: vm.memoryMib, maxMemoryMib };
  if (memoryMib > maxMemoryMib) {
    const why = `was created for a memoryMib of at most ${maxMemoryMib}. Create one with a higher maxMemoryMib`;
    throw refuse(why, context);
  }
  if (memoryMib < vm.memoryMib) {
    throw refuse(`has at least the memoryMib that it boots with, ${vm.memoryMib}`, context);
  }
  if ((memoryMib - vm.memoryMib) % MEMORY_STEP_MIB !== 0) {
    const why = `takes and returns memoryMib by ${MEMORY_STEP_MIB}, from ${vm.memoryMib} on`;
    throw refuse(why, context);
  }
  return options;
}
