/** The calling side of a ttrpc connection. */
import type { Duplex } from 'node:stream';
import { abortedError, RpcError } from '../errors.js';
import { FrameConnection } from './connection.js';
import { decodeResponse, encodeRequest } from './envelope.js';
import { type DecodedFrame, frameFlag, frameType, isOversized } from './frame.js';
import { errorFromStatus, status } from './status.js';
import { TtrpcStream } from './stream.js';

const LAST_STREAM_ID = 2 ** 32 - 1;

export interface CallOptions {
  /** Told to the server, and kept here too. */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
  metadata?: Readonly<Record<string, string>> | undefined;
}

/** What is open under one stream id. */
interface Call {
  name: string;
  onResponse(payload: Uint8Array): void;
  onData(data: Uint8Array): void;
  onRemoteClosed(): void;
  onError(error: RpcError): void;
}

/** Calls over one connection, which it owns. */
export class TtrpcClient {
  readonly #connection: FrameConnection;
  readonly #calls = new Map<number, Call>();
  #nextStreamId = 1;
  /** Settles, never rejects, when the connection is gone. */
  readonly closed: Promise<RpcError>;

  constructor(stream: Duplex) {
    let onClosed = (_error: RpcError): void => {};
    this.closed = new Promise((resolve) => {
      onClosed = resolve;
    });
    this.#connection = new FrameConnection(stream, {
      onFrame: (frame) => this.#onFrame(frame),
      onClose: (error) => {
        const calls = [...this.#calls.values()];
        this.#calls.clear();
        for (const call of calls) call.onError(error);
        onClosed(error);
      },
    });
  }

  /** One request, one response. */
  async call(
    service: string,
    method: string,
    payload: Uint8Array,
    options: CallOptions = {},
  ): Promise<Uint8Array> {
    const name = `${service}/${method}`;
    const { signal, timeoutMs } = options;
    if (signal?.aborted) throw abortedError(signal, name);
    const streamId = this.#takeStreamId();
    let timer: NodeJS.Timeout | undefined;
    let onAbort: (() => void) | undefined;
    try {
      return await new Promise<Uint8Array>((resolve, reject) => {
        const call = unaryCall(name, resolve, reject);
        this.#calls.set(streamId, call);
        if (timeoutMs !== undefined) {
          timer = setTimeout(() => reject(deadlineError(name, timeoutMs)), timeoutMs);
        }
        if (signal !== undefined) {
          onAbort = () => reject(abortedError(signal, name));
          signal.addEventListener('abort', onAbort, { once: true });
        }
        this.#request(streamId, 0, service, method, payload, options).catch(reject);
      });
    } finally {
      this.#calls.delete(streamId);
      clearTimeout(timer);
      if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Opens a call in which both sides send messages. */
  async openStream(
    service: string,
    method: string,
    options: Pick<CallOptions, 'metadata'> = {},
  ): Promise<TtrpcStream> {
    const streamId = this.#takeStreamId();
    const stream = new TtrpcStream(this.#connection, streamId, () => {
      this.#calls.delete(streamId);
    });
    this.#calls.set(streamId, streamCall(`${service}/${method}`, stream));
    await this.#request(streamId, frameFlag.remoteOpen, service, method, new Uint8Array(), options);
    return stream;
  }

  /** Drops the connection; whatever is open fails. Idempotent. */
  close(): void {
    this.#connection.close();
  }

  #takeStreamId(): number {
    if (this.#connection.error !== undefined) throw this.#connection.error;
    if (this.#nextStreamId > LAST_STREAM_ID) {
      throw new RpcError('ERR_RPC_RESOURCE_EXHAUSTED', 'the connection has no stream ids left');
    }
    const streamId = this.#nextStreamId;
    this.#nextStreamId += 2;
    return streamId;
  }

  async #request(
    streamId: number,
    flags: number,
    service: string,
    method: string,
    payload: Uint8Array,
    options: CallOptions,
  ): Promise<void> {
    const timeoutNano = BigInt(options.timeoutMs ?? 0) * 1_000_000n;
    const { metadata } = options;
    const data = encodeRequest({ service, method, payload, timeoutNano, metadata });
    await this.#connection.send({ streamId, type: frameType.request, flags, data });
  }

  #onFrame(frame: DecodedFrame): void {
    // Late frames of calls that timed out are nobody's; so are ids that were never used.
    const call = this.#calls.get(frame.streamId);
    if (call === undefined) return;
    if (isOversized(frame)) {
      this.#calls.delete(frame.streamId);
      const message = `the peer sent a message of ${frame.oversized} bytes, above the limit`;
      call.onError(errorFromStatus(status.resourceExhausted, message, call.name));
    } else if (frame.type === frameType.response) {
      this.#calls.delete(frame.streamId);
      answer(call, frame.data);
    } else if (frame.type === frameType.data) {
      if ((frame.flags & frameFlag.noData) === 0) call.onData(frame.data);
      if ((frame.flags & frameFlag.remoteClosed) !== 0) call.onRemoteClosed();
    }
  }
}

function answer(call: Call, data: Uint8Array): void {
  try {
    const response = decodeResponse(data);
    const code = response.status?.code ?? status.ok;
    if (code === status.ok) call.onResponse(response.payload);
    else call.onError(errorFromStatus(code, response.status?.message ?? '', call.name));
  } catch (error) {
    call.onError(error as RpcError);
  }
}

function unaryCall(
  name: string,
  resolve: (payload: Uint8Array) => void,
  reject: (error: RpcError) => void,
): Call {
  const unexpected = (): void =>
    reject(new RpcError('ERR_RPC_PROTOCOL', `${name}: the peer answered a call with a stream`));
  return {
    name,
    onResponse: resolve,
    onData: unexpected,
    onRemoteClosed: unexpected,
    onError: reject,
  };
}

function streamCall(name: string, stream: TtrpcStream): Call {
  return {
    name,
    onResponse: (payload) => {
      if (payload.length > 0) stream.deliver(payload);
      stream.finish();
    },
    onData: (data) => stream.deliver(data),
    onRemoteClosed: () => stream.finish(),
    onError: (error) => stream.finish(error),
  };
}

function deadlineError(name: string, timeoutMs: number): RpcError {
  return new RpcError('ERR_RPC_DEADLINE_EXCEEDED', `${name}: no answer within ${timeoutMs} ms`, {
    status: status.deadlineExceeded,
    context: { call: name, timeoutMs },
  });
}
