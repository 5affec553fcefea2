/** Bounds that depend on the host. */
import { totalmem } from 'node:os';
import * as z from './zod.js';

const MIB = 1024 * 1024;
export const MIN_MEMORY_MIB = 32;
/** What the MP table has room for (native/arch/x86_64/layout.h kMaxVcpus). */
export const MAX_VCPUS = 32;

export function hostMemoryMib(): number {
  return Math.floor(totalmem() / MIB);
}

/** Guest memory in MiB. */
export const memoryMib: z.ZodMiniType<number> = z
  .int()
  .check(
    z.gte(MIN_MEMORY_MIB, 'the guest kernel and its agent do not fit in less (MiB)'),
    z.lte(hostMemoryMib(), 'this host has no more (MiB)'),
  );

/** Virtual CPUs; the addon lowers the bound to what KVM here allows. */
export const vcpuCount: z.ZodMiniType<number> = z
  .int()
  .check(z.gte(1, 'a machine needs a CPU'), z.lte(MAX_VCPUS, 'a machine has no more CPU numbers'));
