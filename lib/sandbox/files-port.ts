/** The way of file operations to the agent: aborts, lost guests and failures as typed errors. */
import type { Duplex } from 'node:stream';
import { abortedError, RpcError } from '../errors.js';
import {
  decodeFileEvent,
  encodeFileRequest,
  FileChannel,
  type FileEvent,
  type FileMethod,
  type FileQuestion,
  type FileStreamMethod,
} from '../rpc/files-client.js';
import type { FileOperation } from '../state/file-errors.js';
import { guestFileError } from './files-errors.js';

/** What files need of their sandbox. */
export interface FilesHost {
  call(method: string, request: Uint8Array, signal: AbortSignal | undefined): Promise<Uint8Array>;
  connect(signal: AbortSignal | undefined): Promise<Duplex>;
  /** The error to report for a connection that was lost. */
  explain(error: unknown): Promise<unknown>;
}

export class FilesPort {
  readonly #host: FilesHost;

  constructor(host: FilesHost) {
    this.#host = host;
  }

  /** A quick operation. */
  async call(
    operation: FileOperation,
    method: FileMethod,
    question: FileQuestion,
    signal: AbortSignal | undefined,
  ): Promise<FileEvent> {
    const request = encodeFileRequest({ path: Buffer.from(operation.path), ...question });
    try {
      const event = decodeFileEvent(await this.#host.call(method, request, signal));
      if (event.errno !== 0) throw guestFileError(operation, event);
      return event;
    } catch (error) {
      throw await this.#host.explain(error);
    }
  }

  /** A long one. */
  async open(
    operation: FileOperation,
    method: FileStreamMethod,
    question: FileQuestion,
    signal: AbortSignal | undefined,
  ): Promise<FileCall> {
    const what = `to ${operation.verb} ${JSON.stringify(operation.path)}`;
    if (signal?.aborted) throw abortedError(signal, what);
    try {
      const connection = await this.#host.connect(signal);
      const channel = await FileChannel.open(connection, method, {
        path: Buffer.from(operation.path),
        ...question,
      });
      return new FileCall(this.#host, channel, operation, what, signal);
    } catch (error) {
      if (signal?.aborted) throw abortedError(signal, what);
      throw await this.#host.explain(error);
    }
  }
}

/** A long operation that goes on. Whoever opens it closes it. */
export class FileCall {
  readonly operation: FileOperation;
  readonly #host: FilesHost;
  readonly #channel: FileChannel;
  readonly #what: string;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = (): void => this.#channel.close();

  constructor(
    host: FilesHost,
    channel: FileChannel,
    operation: FileOperation,
    what: string,
    signal: AbortSignal | undefined,
  ) {
    this.#host = host;
    this.#channel = channel;
    this.operation = operation;
    this.#what = what;
    this.#signal = signal;
    if (signal?.aborted) this.#onAbort();
    else signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** Resolves when more can be taken. */
  async send(question: FileQuestion): Promise<void> {
    await this.#guard(this.#channel.send(question));
  }

  async end(): Promise<void> {
    await this.#guard(this.#channel.end());
  }

  /** The next event, or `undefined` after the last. Throws what the agent reports. */
  async receive(): Promise<FileEvent | undefined> {
    const event = await this.#guard(this.#channel.receive());
    if (event !== undefined && event.errno !== 0) throw guestFileError(this.operation, event);
    return event;
  }

  /** Waits for the end, and leaves what comes before it. */
  async finish(): Promise<void> {
    while ((await this.receive()) !== undefined);
  }

  close(): void {
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#channel.close();
  }

  async #guard<Value>(promise: Promise<Value>): Promise<Value> {
    try {
      return await promise;
    } catch (error) {
      if (this.#signal?.aborted) throw abortedError(this.#signal, this.#what);
      throw error instanceof RpcError ? await this.#host.explain(error) : error;
    }
  }
}
