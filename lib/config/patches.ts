/** Changes to the root of a new sandbox, made before anything runs in it. */
import { posix } from 'node:path';
import { absoluteGuestPath, cleanText, hostPath } from './common.js';
import * as z from './zod.js';

const MAX_PATCHES = 1024;
const MAX_MODE = 0o7777;

/**
 * In the order in which they are given. What is there already is left alone, and an error, unless
 * `replace` is true; `mkdir` and `remove` are content with what is as they want it. Directories above a path
 * are made.
 */
export type Patch =
  | { type: 'text'; path: string; content: string; mode?: number; replace?: boolean }
  /** Behind what the file has, where there is one. */
  | { type: 'append'; path: string; content: string }
  | { type: 'mkdir'; path: string; mode?: number }
  /** A file, or a directory with all that is in it. */
  | { type: 'remove'; path: string }
  | { type: 'symlink'; path: string; target: string; replace?: boolean }
  /** `from` is a file of this host. */
  | { type: 'copyFile'; from: string; path: string; mode?: number; replace?: boolean }
  /** `from` is a directory of this host; modes and links in it are kept. */
  | { type: 'copyDir'; from: string; path: string; replace?: boolean };

const path = absoluteGuestPath.check(
  z.refine((text) => posix.normalize(text) !== '/', 'the root itself cannot be patched'),
);
const mode = z.optional(z.int().check(z.gte(0), z.lte(MAX_MODE)));
const replace = z.optional(z.boolean());

const patch = z.union([
  z.strictObject({ type: z.enum(['text']), path, content: z.string(), mode, replace }),
  z.strictObject({ type: z.enum(['append']), path, content: z.string() }),
  z.strictObject({ type: z.enum(['mkdir']), path, mode }),
  z.strictObject({ type: z.enum(['remove']), path }),
  z.strictObject({ type: z.enum(['symlink']), path, target: cleanText, replace }),
  z.strictObject({ type: z.enum(['copyFile']), from: hostPath, path, mode, replace }),
  z.strictObject({ type: z.enum(['copyDir']), from: hostPath, path, replace }),
]);

export const patches: z.ZodMiniType<Patch[]> = z
  .array(patch)
  .check(z.maxLength(MAX_PATCHES)) as z.ZodMiniType<Patch[]>;
