/** Pieces that several schemas share. */
import * as z from './zod.js';

const MAX_NAME = 128;
/** `setTimeout` fires at once for anything longer. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;
const encoder = new TextEncoder();

/** An option of the public surface that this version does not act on. */
export function notBuilt(name: string, instead?: string): z.ZodOptional<z.ZodType<never>> {
  const hint = instead === undefined ? '' : `; ${instead}`;
  return z
    .custom<never>((value) => value === undefined, {
      params: { unsupported: true },
      message: `the option "${name}" is not supported by this version${hint}`,
    })
    .optional()
    .describe('not supported by this version');
}

/** As {@link notBuilt}, for an option of which only some values are built. */
export function onlyBuilt<const Value extends string | boolean>(
  name: string,
  values: readonly Value[],
): z.ZodOptional<z.ZodType<Value>> {
  const allowed = values.map((value) => JSON.stringify(value)).join(' or ');
  return z
    .custom<Value>((value) => (values as readonly unknown[]).includes(value), {
      params: { unsupported: true },
      message: `the option "${name}" can only be ${allowed} in this version`,
    })
    .optional();
}

/** Text that a system call takes: a NUL byte would silently end it. */
export const cleanText: z.ZodType<string> = z
  .string()
  .refine((text) => !text.includes('\0'), 'must not contain a NUL byte');

export const nonEmptyText: z.ZodType<string> = cleanText.refine(
  (text) => text !== '',
  'must not be empty',
);

export const absoluteGuestPath: z.ZodType<string> = cleanText
  .refine((path) => path.startsWith('/'), 'must be an absolute path in the guest')
  .refine(
    (path) => encoder.encode(path).length < 4096,
    'is longer than a path can be (4095 bytes)',
  );

export const hostPath: z.ZodType<string> = nonEmptyText;

export const sandboxName: z.ZodType<string> = z
  .string()
  .refine((name) => name !== '', { message: 'a sandbox name must not be empty', abort: true })
  .refine(
    (name) => encoder.encode(name).length <= MAX_NAME,
    `a sandbox name has at most ${MAX_NAME} bytes`,
  )
  .refine(
    (name) => /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name),
    'a sandbox name starts with a letter or digit and contains only letters, digits, ".", "_" and "-"',
  );

export const environment: z.ZodType<Record<string, string>> = z.record(
  z
    .string()
    .refine(
      (key) => key !== '' && !/[=\0]/.test(key),
      'a variable name must not be empty or contain "=" or NUL',
    ),
  cleanText,
);

/** A time to wait, in ms. */
export const timeoutMs: z.ZodType<number> = z
  .int()
  .min(0)
  .max(MAX_TIMEOUT_MS, 'no timer runs longer');

/** A limit in ms: 0 would be over before it began. */
export const limitMs: z.ZodType<number> = z
  .int()
  .min(1)
  .max(MAX_TIMEOUT_MS, 'no timer runs longer');

export const abortSignal: z.ZodType<AbortSignal> = z.custom<AbortSignal>(
  (value) => value instanceof AbortSignal,
  'must be an AbortSignal',
);
