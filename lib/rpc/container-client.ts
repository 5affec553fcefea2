/** The guest's container service: messages of the Kata agent protocol, one method a call. */
import type { Duplex } from 'node:stream';
import type { RpcError } from '../errors.js';
import { type CallOptions, TtrpcClient } from './client.js';
import { type Codec, decode, encode } from './codec.js';

/** Where the program that runs containers dials on the host. */
export const CONTAINER_PORT = 1027;

const AGENT_SERVICE = 'grpc.AgentService';
const HEALTH_SERVICE = 'grpc.Health';
const nothing = new Uint8Array();

/** A message of which what is not said is empty or 0. */
export function message<Message extends object>(
  codec: Codec<Message>,
  fields: Partial<Message>,
): Message {
  return { ...codec.decode(nothing), ...fields };
}

/** Calls over one connection, which it owns. */
export class ContainerClient {
  readonly #client: TtrpcClient;

  constructor(stream: Duplex) {
    this.#client = new TtrpcClient(stream);
  }

  /** Settles when the connection is gone. */
  get closed(): Promise<RpcError> {
    return this.#client.closed;
  }

  /** `Check` and `Version` are those of `grpc.Health`, all others of `grpc.AgentService`. */
  async call<Request extends object, Response>(
    method: string,
    [request, fields]: readonly [Codec<Request>, Partial<Request>],
    response: Codec<Response>,
    options?: CallOptions,
  ): Promise<Response> {
    const service = method === 'Check' || method === 'Version' ? HEALTH_SERVICE : AGENT_SERVICE;
    const bytes = encode(request, message(request, fields));
    const answer = await this.#client.call(service, method, bytes, options);
    return decode(response, answer, `the answer to ${method}`);
  }

  close(): void {
    this.#client.close();
  }
}
