/** Repeats what may succeed later: with pauses that grow, and as a server asks for. */
import { setTimeout as sleep } from 'node:timers/promises';
import { abortedError, type EmbervmError, ImageError } from '../../errors.js';

export interface RetryPolicy {
  readonly retries: number;
  readonly retryDelayMs: number;
  readonly maxRetryAfterMs: number;
}

const MAX_DELAY_MS = 10_000;
/** Of each pause: so that many who failed together do not come back together. */
const JITTER = 0.25;

/** A failure that another attempt may not have; `failure` is what the caller sees after the last. */
export class TemporaryFailure extends Error {
  readonly failure: EmbervmError;
  readonly retryAfterMs: number | undefined;

  constructor(failure: EmbervmError, retryAfterMs?: number) {
    super(failure.message, { cause: failure });
    this.failure = failure;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Waits, or rejects with `ERR_ABORTED`. */
export async function pause(ms: number, what: string, signal?: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    if (signal?.aborted) throw abortedError(signal, what);
    throw error;
  }
}

export function delayOf(attempt: number, policy: RetryPolicy): number {
  const full = Math.min(policy.retryDelayMs * 2 ** attempt, MAX_DELAY_MS);
  return full * (1 - JITTER * Math.random());
}

/** Of `Retry-After` (RFC 9110 §10.2.3): seconds or a date. */
export function parseRetryAfter(header: string | undefined, now: number): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const date = /^[A-Za-z]{3}/.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(0, date - now);
}

/**
 * Runs `attempt` until it succeeds, fails for good, or has failed `retries` times more. A server
 * that asks for a longer pause than the policy grants is taken at its word: there is no use in
 * coming back before.
 */
export async function withRetries<Result>(
  policy: RetryPolicy,
  what: string,
  signal: AbortSignal | undefined,
  attempt: () => Promise<Result>,
): Promise<Result> {
  for (let count = 0; ; count += 1) {
    if (signal?.aborted) throw abortedError(signal, what);
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof TemporaryFailure)) throw error;
      const asked = error.retryAfterMs ?? 0;
      if (count >= policy.retries || asked > policy.maxRetryAfterMs) throw error.failure;
      await pause(Math.max(asked, delayOf(count, policy)), what, signal);
    }
  }
}

/** Whether another registry may have what this one could not give. */
export function isWorthAnother(error: unknown): boolean {
  return error instanceof ImageError && error.code !== 'ERR_IMAGE_REFERENCE';
}
