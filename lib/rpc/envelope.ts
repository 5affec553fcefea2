/** The data of Request and Response frames. */

import { RpcError } from '../errors.js';
import { type Request, RequestSchema, type Response, ResponseSchema } from './gen/ttrpc_pb.js';
import { create, fromBinary, toBinary } from './protobuf.js';

export type { Request, Response };

export interface RequestFields {
  service: string;
  method: string;
  payload: Uint8Array;
  /** 0: none. */
  timeoutNano: bigint;
  metadata?: Readonly<Record<string, string>> | undefined;
}

export function encodeRequest(fields: RequestFields): Uint8Array {
  const metadata = Object.entries(fields.metadata ?? {}).map(([key, value]) => ({ key, value }));
  return toBinary(RequestSchema, create(RequestSchema, { ...fields, metadata }));
}

export function decodeRequest(data: Uint8Array): Request {
  return decode(() => fromBinary(RequestSchema, data), 'request');
}

export function encodeResponse(payload: Uint8Array): Uint8Array {
  return toBinary(ResponseSchema, create(ResponseSchema, { payload }));
}

export function encodeFailure(code: number, message: string): Uint8Array {
  return toBinary(ResponseSchema, create(ResponseSchema, { status: { code, message } }));
}

export function decodeResponse(data: Uint8Array): Response {
  return decode(() => fromBinary(ResponseSchema, data), 'response');
}

function decode<Message>(read: () => Message, what: string): Message {
  try {
    return read();
  } catch (cause) {
    throw new RpcError('ERR_RPC_PROTOCOL', `the peer sent a ${what} that is not protobuf`, {
      cause,
    });
  }
}
