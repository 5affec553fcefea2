/** Arguments of the functions of `embervm/virtcontainers` that are no structures of their own. */
import { constants } from 'node:os';
import { cleanText } from '../common.js';
import { parseConfig } from '../parse.js';
import * as z from '../zod.js';

const MAX_SIGNAL = 64;
/** As the terminal has it, in 16 bits. */
const MAX_CELLS = 65_535;

const signal = z.union([
  z.pipe(
    z.enum(Object.keys(constants.signals) as [NodeJS.Signals]),
    z.transform((s) => constants.signals[s]),
  ),
  z.int().check(z.gte(1), z.lte(MAX_SIGNAL)),
]);

const cells = z.int().check(z.gte(1), z.lte(MAX_CELLS));

const processListOptions: z.ZodMiniType<{ format: 'json' | 'table'; args: string[] }> =
  z.strictObject({
    format: z.enum(['json', 'table']),
    args: z._default(z.array(cleanText), ['-ef']),
  });

export function parseSignal(input: unknown): number {
  return parseConfig(z.strictObject({ signal }), { signal: input }, 'invalid signal').signal;
}

export function parseWindow(height: unknown, width: unknown): { height: number; width: number } {
  const window = z.strictObject({ height: cells, width: cells });
  return parseConfig(window, { height, width }, 'invalid size of a window');
}

export function parseProcessListOptions(input: unknown): {
  format: 'json' | 'table';
  args: string[];
} {
  return parseConfig(processListOptions, input, 'invalid options of a list of processes');
}
