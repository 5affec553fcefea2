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

/** By how much memory comes and goes (native/devices/mem/protocol.h kBlockBytes). */
export const MEMORY_STEP_MIB = 4;

export interface MemorySizes {
  memoryMib: number;
  maxMemoryMib?: number | undefined;
}

/** A check of an object that has both. */
export const growableMemory: z.core.$ZodCheck<MemorySizes> = z.refine<MemorySizes>(
  ({ memoryMib: least, maxMemoryMib: most = least }) =>
    most >= least && (most - least) % MEMORY_STEP_MIB === 0,
  {
    path: ['maxMemoryMib'],
    message: `must not be less than memoryMib, and differ from it by a multiple of ${MEMORY_STEP_MIB} (MiB)`,
  },
);

/** What its region is made of, and that of a guest that boots with much (GuestMemory::PluggableAlignment). */
const REGION_STEP_MIB = 128;
const LARGE_REGION_STEP_MIB = 2048;
const LARGE_GUEST_MIB = 63 * 1024;

/** How long the file is that holds the memory of such a guest, in MiB: most of it may be a hole. */
export function memoryFileMib({
  memoryMib: least,
  maxMemoryMib: most = least,
}: MemorySizes): number {
  const step = least >= LARGE_GUEST_MIB ? LARGE_REGION_STEP_MIB : REGION_STEP_MIB;
  return least + Math.ceil((most - least) / step) * step;
}

/** Virtual CPUs; the addon lowers the bound to what KVM here allows. */
export const vcpuCount: z.ZodMiniType<number> = z
  .int()
  .check(z.gte(1, 'a machine needs a CPU'), z.lte(MAX_VCPUS, 'a machine has no more CPU numbers'));
