/** `files.watch`: changes in the guest as an async iterable. */
import {
  FileChange as Bits,
  type FileEvent,
  FileFlag,
  type FileInfo,
} from '../rpc/files-client.js';
import { join, kindOf } from './files-entry.js';
import type { FileCall, FilesPort } from './files-port.js';
import type { FileChange, FileChangeType, FileWatcher } from './files-types.js';

interface WatchOptions {
  recursive: boolean;
  signal?: AbortSignal | undefined;
}

const types: Readonly<Record<number, FileChangeType>> = {
  [Bits.CREATED]: 'create',
  [Bits.MODIFIED]: 'modify',
  [Bits.ATTRIBUTES]: 'attributes',
  [Bits.REMOVED]: 'remove',
  [Bits.OVERFLOW]: 'overflow',
};

export function watchFiles(port: FilesPort, path: string, options: WatchOptions): FileWatcher {
  return new Watcher(port, path, options);
}

class Watcher implements FileWatcher {
  readonly ready: Promise<void>;
  readonly #path: string;
  readonly #opening = new AbortController();
  readonly #call: Promise<FileCall>;
  readonly #changes: AsyncGenerator<FileChange, void, void>;
  #closed = false;

  constructor(port: FilesPort, path: string, { recursive, signal }: WatchOptions) {
    this.#path = path;
    const flags = recursive ? FileFlag.RECURSIVE : 0;
    const onAbort = (): void => void this.close();
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
    this.#call = port.open({ verb: 'watch', path }, 'Watch', { flags }, this.#opening.signal);
    this.#opening.signal.addEventListener('abort', () =>
      signal?.removeEventListener('abort', onAbort),
    );
    this.ready = this.#begin();
    // Whoever iterates gets the error, too.
    this.ready.catch(() => {});
    this.#changes = this.#iterate();
  }

  next(): Promise<IteratorResult<FileChange, void>> {
    return this.#changes.next();
  }

  async return(): Promise<IteratorResult<FileChange, void>> {
    await this.close();
    return { done: true, value: undefined };
  }

  /** Ends the iteration, also one that waits. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#opening.abort();
    await this.#call.then(
      (call) => call.close(),
      () => {},
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async #begin(): Promise<void> {
    const call = await this.#call;
    // The first event says that nothing is missed from now on.
    await call.receive();
  }

  async *#iterate(): AsyncGenerator<FileChange, void, void> {
    try {
      await this.ready;
      const call = await this.#call;
      for (;;) {
        const event = await call.receive();
        if (event === undefined) return;
        yield* this.#changesOf(event);
        if (this.#closed) return;
      }
    } catch (error) {
      // Being ended by its owner is no failure, whether by hand or by its signal.
      if (!this.#closed) throw error;
    } finally {
      await this.close();
    }
  }

  *#changesOf(event: FileEvent): Generator<FileChange, void, void> {
    for (const info of event.entries) {
      const change = this.#toChange(info);
      if (change !== undefined) yield change;
    }
  }

  #toChange(info: FileInfo): FileChange | undefined {
    const type = types[info.change];
    if (type === undefined) return undefined;
    const path = join(this.#path, Buffer.from(info.name).toString());
    return { type, path, directory: kindOf(info.mode) === 'directory' };
  }
}
