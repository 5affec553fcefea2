/**
 * One streaming call, the same on both sides: messages in both directions over
 * a shared connection. Received messages wait here; when they are too many, the
 * whole connection stops reading, because ttrpc itself has no flow control.
 */
import { RpcError } from '../errors.js';
import type { FrameConnection } from './connection.js';
import { frameFlag, frameType } from './frame.js';

/** Waiting bytes above which the connection stops reading. */
const HIGH_WATER_BYTES = 256 * 1024;
/** Waiting messages above which it stops, however small they are. */
const HIGH_WATER_MESSAGES = 256;

type Waiter = (result: IteratorResult<Uint8Array, undefined> | RpcError) => void;

export class TtrpcStream implements AsyncIterable<Uint8Array> {
  readonly #connection: FrameConnection;
  readonly #streamId: number;
  readonly #onDone: () => void;
  readonly #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #waiter: Waiter | undefined;
  #sendClosed = false;
  #ended = false;
  #finished = false;
  #error: RpcError | undefined;

  /** `onDone` is called once, when no frame of this stream matters any more. */
  constructor(connection: FrameConnection, streamId: number, onDone: () => void) {
    this.#connection = connection;
    this.#streamId = streamId;
    this.#onDone = onDone;
  }

  /** Sends one message; resolves when the connection can take more. */
  async send(message: Uint8Array): Promise<void> {
    if (this.#error !== undefined) throw this.#error;
    if (this.#sendClosed) {
      throw new RpcError('ERR_RPC_FAILED_PRECONDITION', 'the stream is closed for sending');
    }
    await this.#connection.send({
      streamId: this.#streamId,
      type: frameType.data,
      flags: 0,
      data: message,
    });
  }

  /** Tells the peer that no more messages follow. Idempotent. */
  async closeSend(): Promise<void> {
    if (this.#sendClosed || this.#error !== undefined) return;
    this.#sendClosed = true;
    await this.#connection.send({
      streamId: this.#streamId,
      type: frameType.data,
      flags: frameFlag.remoteClosed | frameFlag.noData,
      data: new Uint8Array(),
    });
  }

  /** The next message, or `undefined` at the end. One reader at a time. */
  async receive(): Promise<Uint8Array | undefined> {
    const message = this.#queue.shift();
    if (message !== undefined) {
      this.#queuedBytes -= message.length;
      if (!this.#full) this.#connection.resume(this);
      return message;
    }
    if (this.#error !== undefined) throw this.#error;
    if (this.#ended) return undefined;
    if (this.#waiter !== undefined) {
      throw new RpcError('ERR_RPC_FAILED_PRECONDITION', 'the stream already has a reader');
    }
    const result = await new Promise<Parameters<Waiter>[0]>((resolve) => {
      this.#waiter = resolve;
    });
    if (result instanceof RpcError) throw result;
    return result.value;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, void> {
    for (;;) {
      const message = await this.receive();
      if (message === undefined) return;
      yield message;
    }
  }

  /** Forgets what has arrived and what may yet arrive. */
  cancel(): void {
    this.#queue.length = 0;
    this.#queuedBytes = 0;
    this.finish(new RpcError('ERR_RPC_CANCELLED', 'the stream was cancelled on this side'));
  }

  /** A message arrived. Called by the owner of the connection. */
  deliver(message: Uint8Array): void {
    if (this.#ended || this.#error !== undefined) return;
    if (this.#waiter !== undefined) {
      this.#wake({ done: false, value: message });
      return;
    }
    this.#queue.push(message);
    this.#queuedBytes += message.length;
    if (this.#full) this.#connection.pause(this);
  }

  /** The peer sends no more, but may still be sent to. Called by the owner of the connection. */
  endReceive(): void {
    if (this.#ended || this.#error !== undefined) return;
    this.#ended = true;
    this.#wake({ done: true, value: undefined });
  }

  /** The call is over, both ways. Called by the owner of the connection. */
  finish(error?: RpcError): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#sendClosed = true;
    if (error !== undefined && !this.#ended) {
      this.#error = error;
      this.#wake(error);
    } else {
      this.endReceive();
    }
    // Whoever still reads finds what has arrived; the others need not wait for it.
    this.#connection.resume(this);
    this.#onDone();
  }

  get #full(): boolean {
    return this.#queuedBytes > HIGH_WATER_BYTES || this.#queue.length > HIGH_WATER_MESSAGES;
  }

  #wake(result: Parameters<Waiter>[0]): void {
    const waiter = this.#waiter;
    this.#waiter = undefined;
    waiter?.(result);
  }
}
