/** Messages to bytes and back: nothing that a peer sends gets past this but as a typed error. */
import { RpcError } from '../errors.js';
import type { BinaryWriter } from './protobuf.js';

/** What generated code has for each message. */
export interface Codec<Message> {
  encode(message: Message): BinaryWriter;
  decode(bytes: Uint8Array): Message;
}

export function encode<Message>(codec: Codec<Message>, message: Message): Uint8Array {
  return codec.encode(message).finish();
}

/** `ERR_RPC_PROTOCOL` for bytes that are no such message; `what` says what it was to be. */
export function decode<Message>(codec: Codec<Message>, bytes: Uint8Array, what: string): Message {
  try {
    return codec.decode(bytes);
  } catch (cause) {
    throw new RpcError('ERR_RPC_PROTOCOL', `${what} is not protobuf`, { cause });
  }
}

/** A few bytes must not keep a large buffer alive: a guest could send a million of them. */
export function own(data: Uint8Array): Uint8Array {
  return data.byteLength * 2 < data.buffer.byteLength ? Uint8Array.from(data) : data;
}
