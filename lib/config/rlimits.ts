/** Resource limits of a command, by the names of prlimit(1) and the numbers of the kernel. */
import * as z from './zod.js';

/** RLIMIT_* of x86-64 Linux (asm-generic/resource.h), in the order of their numbers. */
const names = [
  'cpu',
  'fsize',
  'data',
  'stack',
  'core',
  'rss',
  'nproc',
  'nofile',
  'memlock',
  'as',
  'locks',
  'sigpending',
  'msgqueue',
  'nice',
  'rtprio',
  'rttime',
] as const;

export type RlimitName = (typeof names)[number];

/** A number is both limits; `Infinity` is none. Units are those of setrlimit(2). */
export type Rlimit = number | { soft: number; hard: number };

export interface ResolvedRlimit {
  resource: number;
  soft: bigint;
  hard: bigint;
}

const UNLIMITED = 2n ** 64n - 1n;

const amount: z.ZodMiniType<number> = z.custom<number>(
  (value) =>
    value === Number.POSITIVE_INFINITY || (Number.isSafeInteger(value) && Number(value) >= 0),
  'must be a whole number of 0 or more, or Infinity',
);

const limit = z.union([
  amount,
  z
    .strictObject({ soft: amount, hard: amount })
    .check(
      z.refine(({ soft, hard }) => soft <= hard, 'the soft limit must not be above the hard one'),
    ),
]);

export const rlimits: z.ZodMiniType<ResolvedRlimit[]> = z.pipe(
  z.partialRecord(z.enum(names), limit),
  z.transform((limits) =>
    names.flatMap((name, resource) => {
      const value = limits[name];
      if (value === undefined) return [];
      const { soft, hard } = typeof value === 'number' ? { soft: value, hard: value } : value;
      return [{ resource, soft: toKernel(soft), hard: toKernel(hard) }];
    }),
  ),
);

function toKernel(value: number): bigint {
  return value === Number.POSITIVE_INFINITY ? UNLIMITED : BigInt(value);
}
