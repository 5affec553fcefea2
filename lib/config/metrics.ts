/** Options of `metrics` and `metricsStream`. */
import { abortSignal, limitMs } from './common.js';
import { parseConfig } from './parse.js';
import * as z from './zod.js';

export interface MetricsOptions {
  /** Ask the guest for its free memory (the default); the rest is known without it. */
  guest?: boolean | undefined;
  /** Count which memory is resident (the default): milliseconds of the host for each GiB. */
  resident?: boolean | undefined;
}

export interface ResolvedMetricsOptions {
  guest: boolean;
  resident: boolean;
}

export interface MetricsStreamOptions extends MetricsOptions {
  /** Time from one sample to the next, in ms; default 1000. */
  intervalMs?: number | undefined;
  /** Ends the stream with an `ERR_ABORTED`. */
  signal?: AbortSignal | undefined;
}

export interface ResolvedMetricsStreamOptions extends ResolvedMetricsOptions {
  intervalMs: number;
  signal?: AbortSignal | undefined;
}

const parts = {
  guest: z._default(z.boolean(), true).check(z.describe('ask the guest too')),
  resident: z._default(z.boolean(), true).check(z.describe('count resident memory')),
};

const metricsOptions: z.ZodMiniType<ResolvedMetricsOptions> = z.strictObject(parts);

const streamOptions: z.ZodMiniType<ResolvedMetricsStreamOptions> = z.strictObject({
  ...parts,
  intervalMs: z._default(limitMs, 1_000).check(z.describe('time between samples in ms')),
  signal: z.optional(abortSignal).check(z.describe('ends the stream')),
});

export function parseMetricsOptions(input: unknown): ResolvedMetricsOptions {
  return parseConfig(metricsOptions, input === undefined ? {} : input, 'invalid metrics options');
}

export function parseMetricsStreamOptions(input: unknown): ResolvedMetricsStreamOptions {
  return parseConfig(streamOptions, input === undefined ? {} : input, 'invalid metrics options');
}
