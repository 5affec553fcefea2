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
): z.ZodMiniOptional<z.ZodMiniType<undefined, unknown>> {
  return z
    .optional(
      z.pipe(
        z.custom<unknown>(isOff, {
          params: { unsupported: true },
          message: `the option "${name}" is not supported: ${reason}`,
        }),
        z.transform(() => undefined),
      ),
    )
    .check(z.describe(`not supported: ${reason}`));
}

/** One of `accepted`, also by an alias; what is in `refusals` is refused with its reason. */
export function nameOf<const Name extends string>(
  option: string,
  accepted: readonly Name[],
  refusals: Readonly<Record<string, string>> = {},
  aliases: Readonly<Record<string, Name>> = {},
): z.ZodMiniType<Name> {
  const wanted = `must be ${accepted.map((name) => JSON.stringify(name)).join(' or ')}`;
  return z.pipe(
    z.string(),
    z.transform((given, { issues }): Name => {
      const name = Object.hasOwn(aliases, given) ? aliases[given] : given;
      const known = accepted.find((one) => one === name);
      if (known !== undefined) return known;
      const reason = Object.hasOwn(refusals, given) ? refusals[given] : undefined;
      issues.push(
        reason === undefined
          ? { code: 'custom', input: given, message: wanted }
          : {
              code: 'custom',
              input: given,
              params: { unsupported: true },
              message: `the ${option} "${given}" is not supported: ${reason}`,
            },
      );
      return z.NEVER;
    }),
  );
}
