import * as z from './zod.js';

/** How a file holds a disk. It is never guessed: a guest can write any header into its own disk. */
export type DiskFormat = 'raw' | 'qcow2' | 'vmdk';

export const diskFormat: z.ZodMiniType<DiskFormat> = z.enum(['raw', 'qcow2', 'vmdk']);
