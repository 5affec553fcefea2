/** Waiting with limits. */
import { abortedError } from '../errors.js';

export interface WaitOptions {
  /** What is waited for, for the error of an abort. */
  what: string;
  signal?: AbortSignal | undefined;
  timeoutMs?: number | undefined;
}

/** `promise`, or `undefined` after `timeoutMs`, or a rejection as soon as `signal` is aborted. */
export async function waitFor<Value>(
  promise: Promise<Value>,
  options: WaitOptions,
): Promise<Value | undefined> {
  const { what, signal, timeoutMs } = options;
  let timer: NodeJS.Timeout | undefined;
  let onAbort = (): void => {};
  const limits = new Promise<undefined>((resolve, reject) => {
    if (timeoutMs !== undefined)
      timer = setTimeout(() => resolve(undefined), Math.max(0, timeoutMs));
    if (signal === undefined) return;
    onAbort = () => reject(abortedError(signal, what));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, limits]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/** As {@link waitFor}, without a time limit. */
export async function abortable<Value>(
  promise: Promise<Value>,
  signal: AbortSignal | undefined,
  what: string,
): Promise<Value> {
  if (signal === undefined) return promise;
  return (await waitFor(promise, { what, signal })) as Value;
}
