/** Options of `logs` and `logStream`. */
import { abortSignal, nonEmptyText } from './common.js';
import { parseConfig } from './parse.js';
import * as z from './zod.js';

/** `output` is that of a terminal, where stdout and stderr are one; `system` is about the sandbox. */
export type LogSource = 'stdout' | 'stderr' | 'output' | 'system';

/** How much is written of what happens to a sandbox: lines of this level and above. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug' | 'trace';

export interface LogOptions {
  /** Only the last so many entries. */
  tail?: number | undefined;
  /** Only entries of this time or later. */
  since?: Date | number | undefined;
  /** Only entries before this time. */
  until?: Date | number | undefined;
  /** Default: everything but `system`. */
  sources?: readonly LogSource[] | undefined;
}

export interface LogStreamOptions extends Omit<LogOptions, 'tail'> {
  /** Wait for more at the end, until the sandbox has ended; default false. */
  follow?: boolean | undefined;
  /** Go on after the entry that had this `cursor`. */
  cursor?: string | undefined;
  /** Ends the stream with an `ERR_ABORTED`. */
  signal?: AbortSignal | undefined;
}

export interface ResolvedLogOptions {
  tail?: number | undefined;
  since: number;
  until: number;
  sources: readonly LogSource[];
}

export interface ResolvedLogStreamOptions extends ResolvedLogOptions {
  follow: boolean;
  cursor?: string | undefined;
  signal?: AbortSignal | undefined;
}

const time = z.pipe(
  z.custom<Date | number>(
    (value) => Number.isFinite(value instanceof Date ? value.getTime() : value),
    'must be a Date or a number of milliseconds since 1970',
  ),
  z.transform(Number),
);

const sources: z.ZodMiniType<readonly LogSource[]> = z
  .array(z.enum(['stdout', 'stderr', 'output', 'system']))
  .check(z.minLength(1, 'without a source there is nothing to read'));

const common = {
  since: z._default(time, Number.NEGATIVE_INFINITY).check(z.describe('earliest time')),
  until: z
    ._default(time, Number.POSITIVE_INFINITY)
    .check(z.describe('time before which entries must be')),
  sources: z._default(sources, ['stdout', 'stderr', 'output']).check(z.describe('what to read')),
};

const logOptions: z.ZodMiniType<ResolvedLogOptions> = z.strictObject({
  ...common,
  tail: z.optional(z.int().check(z.gte(0))).check(z.describe('how many of the last entries')),
});

const streamOptions: z.ZodMiniType<ResolvedLogStreamOptions> = z.strictObject({
  ...common,
  follow: z._default(z.boolean(), false).check(z.describe('wait for more')),
  cursor: z.optional(nonEmptyText).check(z.describe('where to go on')),
  signal: z.optional(abortSignal).check(z.describe('ends the stream')),
});

/** `logLevel` of a sandbox. */
export const logLevel: z.ZodMiniType<LogLevel> = z.enum([
  'error',
  'warn',
  'info',
  'debug',
  'trace',
]);

export function parseLogOptions(input: unknown): ResolvedLogOptions {
  return parseConfig(logOptions, input === undefined ? {} : input, 'invalid log options');
}

export function parseLogStreamOptions(input: unknown): ResolvedLogStreamOptions {
  return parseConfig(streamOptions, input === undefined ? {} : input, 'invalid log options');
}
