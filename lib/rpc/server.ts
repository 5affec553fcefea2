/** The answering side of a ttrpc connection. */
import type { Duplex } from 'node:stream';
import { RpcError } from '../errors.js';
import { FrameConnection } from './connection.js';
import { decodeRequest, encodeFailure, encodeResponse, type Request } from './envelope.js';
import { type DecodedFrame, frameFlag, frameType, isOversized } from './frame.js';
import { status, statusOf } from './status.js';
import { TtrpcStream } from './stream.js';

const DEFAULT_MAX_CALLS = 64;
const MAX_TIMER_MS = 2 ** 31 - 1;

export interface CallContext {
  /** Aborted at the caller's deadline and when the connection dies. */
  signal: AbortSignal;
  metadata: Readonly<Record<string, string>>;
}

export type UnaryHandler = (
  payload: Uint8Array,
  context: CallContext,
) => Promise<Uint8Array> | Uint8Array;
export type StreamHandler = (stream: TtrpcStream, context: CallContext) => Promise<void>;
export type Method = { unary: UnaryHandler } | { stream: StreamHandler };
/** Methods by service name, then method name. */
export type Services = Readonly<Record<string, Readonly<Record<string, Method>>>>;

export interface ServerOptions {
  /** Calls that may be open on a connection at once. */
  maxCalls?: number;
}

interface OpenCall {
  abort: AbortController;
  timer: NodeJS.Timeout | undefined;
  stream: TtrpcStream | undefined;
}

/** Serves one connection, which it owns. */
export class TtrpcServer {
  readonly #connection: FrameConnection;
  readonly #services: Services;
  readonly #maxCalls: number;
  readonly #open = new Map<number, OpenCall>();
  #lastStreamId = 0;
  /** Settles, never rejects, when the connection is gone. */
  readonly closed: Promise<RpcError>;

  constructor(stream: Duplex, services: Services, options: ServerOptions = {}) {
    this.#services = services;
    this.#maxCalls = options.maxCalls ?? DEFAULT_MAX_CALLS;
    let onClosed = (_error: RpcError): void => {};
    this.closed = new Promise((resolve) => {
      onClosed = resolve;
    });
    this.#connection = new FrameConnection(stream, {
      onFrame: (frame) => this.#onFrame(frame),
      onClose: (error) => {
        for (const call of this.#open.values()) {
          clearTimeout(call.timer);
          call.abort.abort(error);
          call.stream?.finish(error);
        }
        this.#open.clear();
        onClosed(error);
      },
    });
  }

  /** Drops the connection; open calls are aborted. Idempotent. */
  close(): void {
    this.#connection.close();
  }

  #onFrame(frame: DecodedFrame): void {
    if (frame.type === frameType.data) this.#onData(frame);
    else if (frame.type === frameType.request) this.#onRequest(frame);
  }

  #onData(frame: DecodedFrame): void {
    const { streamId } = frame;
    const stream = this.#open.get(streamId)?.stream;
    if (isOversized(frame)) {
      this.#fail(streamId, status.resourceExhausted, oversizedMessage(frame.oversized));
      stream?.finish(new RpcError('ERR_RPC_RESOURCE_EXHAUSTED', oversizedMessage(frame.oversized)));
    } else if (stream === undefined) {
      this.#fail(streamId, status.invalidArgument, 'StreamID is no longer active');
    } else {
      if ((frame.flags & frameFlag.noData) === 0) stream.deliver(frame.data);
      if ((frame.flags & frameFlag.remoteClosed) !== 0) stream.endReceive();
    }
  }

  #onRequest(frame: DecodedFrame): void {
    const { streamId } = frame;
    const refuse = (code: number, message: string): void => this.#fail(streamId, code, message);
    if (streamId % 2 === 0) {
      refuse(status.invalidArgument, 'StreamID must be odd for client initiated streams');
      return;
    }
    if (streamId <= this.#lastStreamId) {
      refuse(status.invalidArgument, 'StreamID cannot be re-used and must increment');
      return;
    }
    this.#lastStreamId = streamId;
    if (isOversized(frame)) {
      refuse(status.resourceExhausted, oversizedMessage(frame.oversized));
      return;
    }
    if (this.#open.size >= this.#maxCalls) {
      refuse(status.resourceExhausted, `${this.#maxCalls} calls are open on this connection`);
      return;
    }
    try {
      this.#dispatch(streamId, frame.flags, decodeRequest(frame.data));
    } catch (error) {
      refuse(statusOf(error), messageOf(error));
    }
  }

  #dispatch(streamId: number, flags: number, request: Request): void {
    const method = this.#find(request.service, request.method);
    const abort = new AbortController();
    const call: OpenCall = { abort, timer: undefined, stream: undefined };
    if (request.timeoutNano > 0n) {
      const limit = Math.min(Number(request.timeoutNano / 1_000_000n), MAX_TIMER_MS);
      call.timer = setTimeout(() => this.#expire(streamId), limit);
    }
    const context: CallContext = {
      signal: abort.signal,
      metadata: Object.fromEntries(request.metadata.map(({ key, value }) => [key, value])),
    };
    this.#open.set(streamId, call);
    const answer = (run: () => Promise<void>): void => {
      run().catch((error: unknown) => {
        if (this.#finish(streamId)) this.#fail(streamId, statusOf(error), messageOf(error));
      });
    };
    if ('unary' in method) {
      answer(async () => {
        const data = encodeResponse(await method.unary(request.payload, context));
        if (this.#finish(streamId)) this.#send(streamId, frameType.response, 0, data);
      });
      return;
    }
    // The stream outlives what the peer sends: it is done when the handler is.
    const stream = new TtrpcStream(this.#connection, streamId, () => {});
    call.stream = stream;
    if (request.payload.length > 0) stream.deliver(request.payload);
    if ((flags & frameFlag.remoteClosed) !== 0) stream.endReceive();
    answer(async () => {
      await method.stream(stream, context);
      if (!this.#finish(streamId)) return;
      const closed = frameFlag.remoteClosed | frameFlag.noData;
      this.#send(streamId, frameType.data, closed, new Uint8Array());
    });
  }

  #find(service: string, method: string): Method {
    const methods = Object.hasOwn(this.#services, service) ? this.#services[service] : undefined;
    const found =
      methods !== undefined && Object.hasOwn(methods, method) ? methods[method] : undefined;
    if (found === undefined) {
      throw new RpcError('ERR_RPC_UNIMPLEMENTED', `no such method: ${service}/${method}`);
    }
    return found;
  }

  #expire(streamId: number): void {
    const call = this.#open.get(streamId);
    if (call === undefined || !this.#finish(streamId)) return;
    const error = new RpcError('ERR_RPC_DEADLINE_EXCEEDED', 'the deadline of the call has passed');
    call.abort.abort(error);
    call.stream?.finish(error);
    this.#fail(streamId, status.deadlineExceeded, error.message);
  }

  /** True for the first who finishes the call. */
  #finish(streamId: number): boolean {
    clearTimeout(this.#open.get(streamId)?.timer);
    return this.#open.delete(streamId);
  }

  #fail(streamId: number, code: number, message: string): void {
    this.#send(streamId, frameType.response, 0, encodeFailure(code, message));
  }

  #send(streamId: number, type: number, flags: number, data: Uint8Array): void {
    const connection = this.#connection;
    const sent = connection.send({ streamId, type, flags, data });
    // A peer that asks and never reads must not fill our memory with answers.
    if (connection.full) connection.pause(this);
    sent.then(
      () => connection.resume(this),
      (error: unknown) => {
        // Either the peer is gone, and nobody wants to know; or the answer is too large.
        if (connection.error !== undefined) return;
        this.#fail(streamId, statusOf(error), messageOf(error));
      },
    );
  }
}

function oversizedMessage(length: number): string {
  return `message of ${length} bytes exceeds the maximum`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
