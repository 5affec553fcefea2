/** A lock of this process: many readers or one writer, in the order in which they asked. */
import { abortedError } from '../errors.js';

export type LockMode = 'read' | 'write';

interface Waiter {
  mode: LockMode;
  admit: () => void;
}

export class RwLock {
  readonly #waiters: Waiter[] = [];
  #readers = 0;
  #writing = false;

  /** Nobody has it or waits for it. */
  get idle(): boolean {
    return this.#readers === 0 && !this.#writing && this.#waiters.length === 0;
  }

  /** Resolves with what gives it back, once. */
  async acquire(mode: LockMode, signal?: AbortSignal): Promise<() => void> {
    if (signal?.aborted) throw abortedError(signal, 'waiting for the sandbox');
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        this.#admit();
        if (signal !== undefined) reject(abortedError(signal, 'waiting for the sandbox'));
      };
      const admit = (): void => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      };
      const waiter: Waiter = { mode, admit };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiters.push(waiter);
      this.#admit();
    });
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      if (mode === 'read') this.#readers -= 1;
      else this.#writing = false;
      this.#admit();
    };
  }

  #admit(): void {
    for (;;) {
      const [next] = this.#waiters;
      if (next === undefined || this.#writing) return;
      if (next.mode === 'write' && this.#readers > 0) return;
      this.#waiters.shift();
      if (next.mode === 'read') this.#readers += 1;
      else this.#writing = true;
      next.admit();
    }
  }
}
