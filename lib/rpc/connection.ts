/**
 * Frames over a byte stream, with back-pressure both ways: `send` waits while
 * the stream is full, and reading stops while anybody holds the connection.
 */
import type { Duplex } from 'node:stream';
import { RpcError } from '../errors.js';
import { type DecodedFrame, encodeHeader, type Frame, FrameDecoder } from './frame.js';

export interface FrameHandler {
  onFrame(frame: DecodedFrame): void;
  /** Once, after which nothing more arrives. */
  onClose(error: RpcError): void;
}

/** One end of a ttrpc connection. Owns its stream. */
export class FrameConnection {
  readonly #stream: Duplex;
  readonly #handler: FrameHandler;
  readonly #decoder = new FrameDecoder();
  readonly #holders = new Set<object>();
  #error: RpcError | undefined;
  #drained: PromiseWithResolvers | undefined;

  constructor(stream: Duplex, handler: FrameHandler) {
    this.#stream = stream;
    this.#handler = handler;
    stream.on('data', (chunk: Uint8Array) => this.#onData(chunk));
    stream.on('drain', () => this.#onDrain());
    stream.on('end', () => this.close(lost('the peer closed the connection')));
    stream.on('error', (cause) => this.close(lost(cause.message, cause)));
    stream.on('close', () => this.close(lost('the connection was closed')));
  }

  get error(): RpcError | undefined {
    return this.#error;
  }

  /** True while what was sent is more than the stream takes at once. */
  get full(): boolean {
    return this.#error === undefined && this.#stream.writableNeedDrain;
  }

  /** Resolves when the stream can take more; rejects when the connection is gone. */
  async send(frame: Frame): Promise<void> {
    if (this.#error !== undefined) throw this.#error;
    const header = encodeHeader(frame, frame.data.length);
    this.#stream.cork();
    this.#stream.write(header);
    if (frame.data.length > 0) this.#stream.write(frame.data);
    this.#stream.uncork();
    if (!this.full) return;
    this.#drained ??= withResolvers();
    await this.#drained.promise;
    if (this.#error !== undefined) throw this.#error;
  }

  /** Stops reading until `holder` calls {@link resume}. */
  pause(holder: object): void {
    this.#holders.add(holder);
    this.#stream.pause();
  }

  resume(holder: object): void {
    if (this.#holders.delete(holder) && this.#holders.size === 0) this.#stream.resume();
  }

  /** Ends the connection; everyone waiting gets `error`. Idempotent. */
  close(error: RpcError = lost('the connection was closed on this side')): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    this.#holders.clear();
    this.#stream.destroy();
    this.#onDrain();
    this.#handler.onClose(error);
  }

  #onData(chunk: Uint8Array): void {
    for (const frame of this.#decoder.push(chunk)) {
      if (this.#error !== undefined) return;
      this.#handler.onFrame(frame);
    }
  }

  #onDrain(): void {
    this.#drained?.resolve();
    this.#drained = undefined;
  }
}

interface PromiseWithResolvers {
  promise: Promise<void>;
  resolve: () => void;
}

function withResolvers(): PromiseWithResolvers {
  let resolve = (): void => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

function lost(why: string, cause?: unknown): RpcError {
  return new RpcError('ERR_RPC_CONNECTION_LOST', why, { cause });
}
