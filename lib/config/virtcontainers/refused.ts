/** Options of virtcontainers that mean nothing to a VMM that is built in: refused by their names. */
import * as z from '../zod.js';

/** What leaves a feature off is the same as leaving the option out. */
function isOff(value: unknown): boolean {
  if (Array.isArray(value)) return value.length === 0;
  return value === undefined || value === false || value === 0 || value === '';
}

/** Accepts what leaves the option off; anything else is `ERR_UNSUPPORTED` with the reason. */
export function refused(
  name: string,
  reason: string,
): z.ZodOptional<z.ZodType<undefined, unknown>> {
  return z
    .custom<unknown>(isOff, {
      params: { unsupported: true },
      message: `the option "${name}" is not supported: ${reason}`,
    })
    .transform(() => undefined)
    .optional()
    .describe(`not supported: ${reason}`);
}

/** One of `accepted`, also by an alias; what is in `refusals` is refused with its reason. */
export function nameOf<const Name extends string>(
  option: string,
  accepted: readonly Name[],
  refusals: Readonly<Record<string, string>> = {},
  aliases: Readonly<Record<string, Name>> = {},
): z.ZodType<Name> {
  return z
    .string()
    .transform((name) => (Object.hasOwn(aliases, name) ? (aliases[name] ?? name) : name))
    .superRefine((value, context) => {
      const reason = Object.hasOwn(refusals, value) ? refusals[value] : undefined;
      if (reason === undefined) return;
      context.addIssue({
        code: 'custom',
        params: { unsupported: true },
        message: `the ${option} "${value}" is not supported: ${reason}`,
      });
    })
    .refine(
      (value): value is Name => {
        return (accepted as readonly string[]).includes(value) || Object.hasOwn(refusals, value);
      },
      `must be ${accepted.map((name) => JSON.stringify(name)).join(' or ')}`,
    ) as z.ZodType<Name>;
}
