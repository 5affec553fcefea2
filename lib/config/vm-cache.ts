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

const options: z.ZodType<ResolvedVmCacheOptions> = z.strictObject({
  size: z.int().min(1).max(MAX_SIZE).describe('how many VMs wait'),
  sandbox: vmConfig.describe('what the VMs have'),
  base: vmFactory.optional().describe('makes the VMs'),
  minFreeMib: z.int().min(0).optional().describe('memory of the host that must stay available'),
});

export function parseVmCacheOptions(input: unknown): ResolvedVmCacheOptions {
  return parseConfig(options, input, 'invalid options of a cache of VMs');
}
