/** Locks of the store by name, of this process and of others. The kernel drops those of the dead. */
import { unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { abortedError } from '../../errors.js';
import { FileLock } from '../../state/lock.js';
import { storeWriteError } from './errors.js';
import { storeFolder } from './places.js';

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

async function acquire(path: string, signal: AbortSignal | undefined): Promise<FileLock> {
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
    if (signal?.aborted) throw abortedError(signal, 'waiting for an image');
    const lock = await FileLock.tryAcquire(path).catch((cause: unknown) => {
      throw storeWriteError('lock', path, cause);
    });
    if (lock !== undefined) return lock;
    await sleep(wait);
  }
}
