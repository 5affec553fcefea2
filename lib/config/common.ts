/** Pieces that several schemas share. */
import * as z from './zod.js';

const MAX_NAME = 128;
/** `setTimeout` fires at once for anything longer. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;
const encoder = new TextEncoder();

/** An option of the public surface that this version does not act on. */
export function notBuilt(name: string, instead?: string): z.ZodMiniOptional<z.ZodMiniType<never>> {
  const hint = instead === undefined ? '' : `; ${instead}`;
  return z
    .optional(
      z.custom<never>((value) => value === undefined, {
        params: { unsupported: true },
        message: `the option "${name}" is not supported by this version${hint}`,
      }),
    )
    .check(z.describe('not supported by this version'));
}

/** As {@link notBuilt}, for an option of which only some values are built. */
export function onlyBuilt<const Value extends string | boolean>(
  name: string,
  values: readonly Value[],
): z.ZodMiniOptional<z.ZodMiniType<Value>> {
  const allowed = values.map((value) => JSON.stringify(value)).join(' or ');
  return z.optional(
    z.custom<Value>((value) => (values as readonly unknown[]).includes(value), {
      params: { unsupported: true },
      message: `the option "${name}" can only be ${allowed} in this version`,
    }),
  );
}

/** Text that a system call takes: a NUL byte would silently end it. */
export const cleanText: z.ZodMiniType<string> = z
  .string()
  .check(z.refine((text) => !text.includes('\0'), 'must not contain a NUL byte'));

export const nonEmptyText: z.ZodMiniType<string> = cleanText.check(
  z.refine((text) => text !== '', 'must not be empty'),
);

export const absoluteGuestPath: z.ZodMiniType<string> = cleanText.check(
  z.refine((path) => path.startsWith('/'), 'must be an absolute path in the guest'),
  z.refine(
    (path) => encoder.encode(path).length < 4096,
    'is longer than a path can be (4095 bytes)',
  ),
);

export const hostPath: z.ZodMiniType<string> = nonEmptyText;

export const sandboxName: z.ZodMiniType<string> = z.string().check(
  z.refine((name) => name !== '', { message: 'a sandbox name must not be empty', abort: true }),
  z.refine(
    (name) => encoder.encode(name).length <= MAX_NAME,
    `a sandbox name has at most ${MAX_NAME} bytes`,
  ),
  z.refine(
    (name) => /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name),
    'a sandbox name starts with a letter or digit and contains only letters, digits, ".", "_" and "-"',
  ),
);

export const environment: z.ZodMiniType<Record<string, string>> = z.record(
  z
    .string()
    .check(
      z.refine(
        (key) => key !== '' && !/[=\0]/.test(key),
        'a variable name must not be empty or contain "=" or NUL',
      ),
    ),
  cleanText,
);

/** A time to wait, in ms. */
export const timeoutMs: z.ZodMiniType<number> = z
  .int()
  .check(z.gte(0), z.lte(MAX_TIMEOUT_MS, 'no timer runs longer'));

/** A limit in ms: 0 would be over before it began. */
export const limitMs: z.ZodMiniType<number> = z
  .int()
  .check(z.gte(1), z.lte(MAX_TIMEOUT_MS, 'no timer runs longer'));

export const abortSignal: z.ZodMiniType<AbortSignal> = z.custom<AbortSignal>(
  (value) => value instanceof AbortSignal,
  'must be an AbortSignal',
);
