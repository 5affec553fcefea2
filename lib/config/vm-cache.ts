/** Options of `createFromCache`. */
import { parseConfig } from './parse.js';
import { type VmConfig, vmConfig, vmFactory } from './sandbox.js';
import * as z from './zod.js';

const MAX_SIZE = 256;

export interface ResolvedVmCacheOptions {
  size: number;
  sandbox: VmConfig;
  base?: unknown;
  minFreeMib?: number | undefined;
}

const options: z.ZodMiniType<ResolvedVmCacheOptions> = z.strictObject({
  size: z.int().check(z.gte(1), z.lte(MAX_SIZE), z.describe('how many VMs wait')),
  sandbox: vmConfig.check(z.describe('what the VMs have')),
  base: z.optional(vmFactory).check(z.describe('makes the VMs')),
  minFreeMib: z
    .optional(z.int().check(z.gte(0)))
    .check(z.describe('memory of the host that must stay available')),
});

export function parseVmCacheOptions(input: unknown): ResolvedVmCacheOptions {
  return parseConfig(options, input, 'invalid options of a cache of VMs');
}
