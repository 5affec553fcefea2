/** The data of Request and Response frames. */
import { decode, encode } from './codec.js';
import { Request, Response } from './gen/ttrpc_pb.js';

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
  return encode(Request, { ...fields, metadata });
}

export function decodeRequest(data: Uint8Array): Request {
  return decode(Request, data, 'a request of the peer');
}

export function encodeResponse(payload: Uint8Array): Uint8Array {
  return encode(Response, { status: undefined, payload });
}

export function encodeFailure(code: number, message: string): Uint8Array {
  return encode(Response, { status: { code, message }, payload: new Uint8Array() });
}

export function decodeResponse(data: Uint8Array): Response {
  return decode(Response, data, 'a response of the peer');
}
