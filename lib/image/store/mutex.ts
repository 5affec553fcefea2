/** Locks of the store by name, of this process and of others. The kernel drops those of the dead. */
import { unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { abortedError } from '../../errors.js';
import { isMissing } from '../../state/durable.js';
import { FileLock } from '../../state/lock.js';
import { storeWriteError } from './errors.js';
import { imagesDirectory, storeFolder } from './places.js';

const FIRST_WAIT_MS = 2;
const LONGEST_WAIT_MS = 100;

/** Runs `work` while nobody else holds `name`. */
export async function withLock<Value>(
  name: string,
  signal: AbortSignal | undefined,
  work: () => Promise<Value>,
): Promise<Value> {
  const path = join(await storeFolder('locks'), name);
  const lock = await acquire(path, signal);
  try {
    return await work();
  } finally {
    // Whoever waits finds that its lock has no name any more, and makes another.
    await unlink(path).catch(() => {});
    await lock.release();
  }
}

/**
 * Runs `work` while nobody else changes what there is: pulls that begin, sandboxes that take an
 * image, images that go. Its file stays, because it is wanted all the time.
 */
export async function withStore<Value>(work: () => Promise<Value>): Promise<Value> {
  const lock = await acquire(join(imagesDirectory(), 'lock'), undefined);
  try {
    return await work();
  } finally {
    await lock.release();
  }
}

async function acquire(path: string, signal: AbortSignal | undefined): Promise<FileLock> {
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
    if (signal?.aborted) throw abortedError(signal, 'waiting for an image');
    const lock = await FileLock.tryAcquire(path).catch(async (cause: unknown) => {
      // The folder may have been removed, or was never made.
      if (!isMissing(cause)) throw storeWriteError('lock', path, cause);
      await storeFolder('locks');
      return undefined;
    });
    if (lock !== undefined) return lock;
    await sleep(wait);
  }
}
