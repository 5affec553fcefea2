import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { RpcError } from '../../lib/errors.js';
import { TtrpcClient } from '../../lib/rpc/client.js';
import { decodeResponse, encodeRequest } from '../../lib/rpc/envelope.js';
import {
  encodeFrame,
  encodeHeader,
  type Frame,
  FrameDecoder,
  frameFlag,
  frameType,
  isOversized,
  MAX_DATA_BYTES,
} from '../../lib/rpc/frame.js';
import { type CallContext, type Services, TtrpcServer } from '../../lib/rpc/server.js';
import type { TtrpcStream } from '../../lib/rpc/stream.js';
import { rejection } from '../helpers/rejection.js';
import { socketPair } from '../helpers/socket-pair.js';

const open: Socket[] = [];

afterEach(() => {
  for (const socket of open.splice(0)) socket.destroy();
});

async function pair(): Promise<[Socket, Socket]> {
  const sockets = await socketPair();
  open.push(...sockets);
  return sockets;
}

const bytes = (text: string): Buffer => Buffer.from(text);
const text = (data: Uint8Array): string => Buffer.from(data).toString();

interface Seen {
  contexts: CallContext[];
  aborted: number;
}

function services(seen: Seen): Services {
  const until = (context: CallContext): Promise<Uint8Array> =>
    new Promise((_, reject) => {
      context.signal.addEventListener('abort', () => {
        seen.aborted += 1;
        reject(context.signal.reason as Error);
      });
    });
  return {
    test: {
      echo: {
        unary: (payload, context) => {
          seen.contexts.push(context);
          return payload;
        },
      },
      refuse: {
        unary: () => {
          throw new RpcError('ERR_RPC_NOT_FOUND', 'no such thing');
        },
      },
      fail: {
        unary: () => {
          throw new Error('broken');
        },
      },
      hang: { unary: (_, context) => until(context) },
      huge: { unary: () => Buffer.alloc(MAX_DATA_BYTES) },
      upper: {
        stream: async (stream) => {
          for await (const message of stream) await stream.send(bytes(text(message).toUpperCase()));
          await stream.send(bytes('END'));
        },
      },
      count: {
        stream: async (stream) => {
          let total = 0;
          for await (const message of stream) total += message.length;
          await stream.send(bytes(String(total)));
        },
      },
      flood: {
        stream: async (stream) => {
          const block = Buffer.alloc(64 * 1024, 'x');
          for (;;) await stream.send(block);
        },
      },
      give: {
        stream: async () => {
          throw new RpcError('ERR_RPC_UNAVAILABLE', 'not now');
        },
      },
    },
  };
}

interface Peers {
  client: TtrpcClient;
  server: TtrpcServer;
  seen: Seen;
  near: Socket;
  far: Socket;
}

async function peers(): Promise<Peers> {
  const [near, far] = await pair();
  const seen: Seen = { contexts: [], aborted: 0 };
  const server = new TtrpcServer(far, services(seen), { maxCalls: 8 });
  return { client: new TtrpcClient(near), server, seen, near, far };
}

async function collect(stream: TtrpcStream): Promise<string[]> {
  const messages: string[] = [];
  for await (const message of stream) messages.push(text(message));
  return messages;
}

/** A counter's value once it has not moved for a while. */
async function steady(read: () => number): Promise<number> {
  let last = read();
  for (let same = 0; same < 4; ) {
    await sleep(100);
    same = read() === last && last > 0 ? same + 1 : 0;
    last = read();
  }
  return last;
}

describe('unary calls', () => {
  test('carry bytes, metadata and an empty payload', async () => {
    const { client, seen } = await peers();
    const payload = randomBytes(300_000);
    const metadata = { a: '1', b: '2' };
    expect(payload.equals(await client.call('test', 'echo', payload, { metadata }))).toBe(true);
    expect(seen.contexts[0]?.metadata).toEqual(metadata);
    expect(await client.call('test', 'echo', new Uint8Array())).toHaveLength(0);
  });

  test('run at once and keep apart', async () => {
    const { client } = await peers();
    const calls = ['a', 'b', 'c', 'd'].map((name) => client.call('test', 'echo', bytes(name)));
    expect((await Promise.all(calls)).map(text)).toEqual(['a', 'b', 'c', 'd']);
  });

  test('fail with the code of the status', async () => {
    const { client } = await peers();
    const none = new Uint8Array();
    expect(await rejection(client.call('test', 'refuse', none))).toMatchObject({
      code: 'ERR_RPC_NOT_FOUND',
      status: 5,
      message: 'test/refuse: no such thing',
    });
    expect(await rejection(client.call('test', 'fail', none))).toMatchObject({
      code: 'ERR_RPC_UNKNOWN',
      status: 2,
    });
    for (const [service, method] of [
      ['test', 'absent'],
      ['absent', 'echo'],
      ['constructor', 'name'],
    ] as const) {
      const error = await rejection(client.call(service, method, none));
      expect(error.code).toBe('ERR_RPC_UNIMPLEMENTED');
    }
  });

  test('end at their deadline, on both sides, and the connection goes on', async () => {
    const { client, seen } = await peers();
    const error = await rejection(client.call('test', 'hang', new Uint8Array(), { timeoutMs: 30 }));
    expect(error.code).toBe('ERR_RPC_DEADLINE_EXCEEDED');
    await expect.poll(() => seen.aborted).toBe(1);
    expect(text(await client.call('test', 'echo', bytes('on')))).toBe('on');
  });

  test('end on abort, with the reason as the cause', async () => {
    const { client } = await peers();
    const controller = new AbortController();
    const call = client.call('test', 'hang', new Uint8Array(), { signal: controller.signal });
    const reason = new Error('enough');
    controller.abort(reason);
    expect(await rejection(call)).toMatchObject({ code: 'ERR_ABORTED', cause: reason });
    const late = client.call('test', 'echo', new Uint8Array(), { signal: controller.signal });
    expect((await rejection(late)).code).toBe('ERR_ABORTED');
  });

  test('above the limit of a frame fail, both ways, and the connection goes on', async () => {
    const { client } = await peers();
    const sent = await rejection(client.call('test', 'echo', Buffer.alloc(MAX_DATA_BYTES)));
    expect(sent.code).toBe('ERR_RPC_RESOURCE_EXHAUSTED');
    const received = await rejection(client.call('test', 'huge', new Uint8Array()));
    expect(received.code).toBe('ERR_RPC_RESOURCE_EXHAUSTED');
    expect(text(await client.call('test', 'echo', bytes('on')))).toBe('on');
  });

  test('above the number that the server takes at once are refused', async () => {
    const { client } = await peers();
    const none = new Uint8Array();
    const hanging = Array.from({ length: 8 }, () => rejection(client.call('test', 'hang', none)));
    const error = await rejection(client.call('test', 'echo', none));
    expect(error.code).toBe('ERR_RPC_RESOURCE_EXHAUSTED');
    client.close();
    for (const each of await Promise.all(hanging)) {
      expect(each.code).toBe('ERR_RPC_CONNECTION_LOST');
    }
  });
});

describe('streams', () => {
  test('carry messages both ways, also empty ones, and end', async () => {
    const { client } = await peers();
    const stream = await client.openStream('test', 'upper');
    for (const message of ['a', '', 'b']) await stream.send(bytes(message));
    await stream.closeSend();
    expect(await collect(stream)).toEqual(['A', '', 'B', 'END']);
    expect(await stream.receive()).toBeUndefined();
  });

  test('fail with the code of the status', async () => {
    const { client } = await peers();
    const stream = await client.openStream('test', 'give');
    expect(await rejection(collect(stream))).toMatchObject({ code: 'ERR_RPC_UNAVAILABLE' });
  });

  test('do not take messages after their end', async () => {
    const { client } = await peers();
    const stream = await client.openStream('test', 'count');
    await stream.closeSend();
    await stream.closeSend();
    const error = await rejection(stream.send(bytes('late')));
    expect(error.code).toBe('ERR_RPC_FAILED_PRECONDITION');
    expect(await collect(stream)).toEqual(['0']);
  });

  test('have one reader', async () => {
    const { client } = await peers();
    const stream = await client.openStream('test', 'count');
    const first = stream.receive();
    expect((await rejection(stream.receive())).code).toBe('ERR_RPC_FAILED_PRECONDITION');
    await stream.closeSend();
    expect(text((await first) ?? bytes('nothing'))).toBe('0');
  });

  test('that nobody reads stop the sender, and memory does not grow', async () => {
    const { client, far } = await peers();
    const stream = await client.openStream('test', 'flood');
    const stalled = await steady(() => far.bytesWritten);
    expect(stalled).toBeLessThan(8 * 2 ** 20);
    // Reading makes it go on, with nothing lost on the way.
    let received = 0;
    while (received < 32 * 2 ** 20) received += (await stream.receive())?.length ?? 0;
    expect(far.bytesWritten).toBeGreaterThan(stalled);
    stream.cancel();
    client.close();
  });

  test('whose reader is slow make send wait', async () => {
    const [near, far] = await pair();
    const client = new TtrpcClient(near);
    const stream = await client.openStream('test', 'count');
    far.pause();
    const block = Buffer.alloc(64 * 1024);
    let sent = 0;
    const sending = (async () => {
      for (;;) {
        await stream.send(block);
        sent += 1;
      }
    })();
    const failed = rejection(sending);
    const before = await steady(() => sent);
    expect(before * block.length).toBeLessThan(8 * 2 ** 20);
    far.resume();
    await expect.poll(() => sent, { timeout: 5000 }).toBeGreaterThan(before);
    far.destroy();
    expect((await failed).code).toBe('ERR_RPC_CONNECTION_LOST');
  });
});

describe('a connection that dies', () => {
  test.each(['destroy', 'end'] as const)('by %s fails whatever is open', async (how) => {
    const { client, far } = await peers();
    const call = rejection(client.call('test', 'hang', new Uint8Array()));
    const stream = await client.openStream('test', 'upper');
    const read = rejection(collect(stream));
    await sleep(20);
    far[how]();
    expect((await call).code).toBe('ERR_RPC_CONNECTION_LOST');
    expect((await read).code).toBe('ERR_RPC_CONNECTION_LOST');
    expect((await client.closed).code).toBe('ERR_RPC_CONNECTION_LOST');
    const late = rejection(client.call('test', 'echo', new Uint8Array()));
    expect((await late).code).toBe('ERR_RPC_CONNECTION_LOST');
  });

  test('still hands out the messages that had arrived', async () => {
    const [near, far] = await pair();
    const client = new TtrpcClient(near);
    const stream = await client.openStream('test', 'any');
    const frame = { streamId: 1, type: frameType.data, flags: 0 };
    far.write(encodeFrame({ ...frame, data: bytes('one') }));
    far.end(encodeFrame({ ...frame, data: bytes('two') }));
    await client.closed;
    expect(text((await stream.receive()) ?? bytes(''))).toBe('one');
    expect(text((await stream.receive()) ?? bytes(''))).toBe('two');
    expect((await rejection(stream.receive())).code).toBe('ERR_RPC_CONNECTION_LOST');
  });

  test('aborts what the server is doing', async () => {
    const { client, server, seen } = await peers();
    const call = rejection(client.call('test', 'hang', new Uint8Array()));
    await sleep(20);
    client.close();
    await call;
    await server.closed;
    expect(seen.aborted).toBe(1);
  });
});

/** Talks to the server frame by frame. */
class RawPeer {
  readonly socket: Socket;
  readonly #decoder = new FrameDecoder();
  readonly #frames: Frame[] = [];

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      for (const frame of this.#decoder.push(chunk))
        if (!isOversized(frame)) this.#frames.push(frame);
    });
  }

  send(frame: Partial<Frame> & { streamId: number; type: number }): void {
    this.socket.write(encodeFrame({ flags: 0, data: new Uint8Array(), ...frame }));
  }

  request(streamId: number, method: string, flags = 0): void {
    const payload = bytes('x');
    const data = encodeRequest({ service: 'test', method, payload, timeoutNano: 0n });
    this.send({ streamId, type: frameType.request, flags, data });
  }

  async response(): Promise<{ streamId: number; code: number; message: string }> {
    await expect.poll(() => this.#frames.length, { timeout: 5000 }).toBeGreaterThan(0);
    const frame = this.#frames.shift();
    if (frame === undefined) throw new Error('no frame');
    expect(frame.type).toBe(frameType.response);
    const { status } = decodeResponse(frame.data);
    return { streamId: frame.streamId, code: status?.code ?? 0, message: status?.message ?? '' };
  }
}

describe('the server keeps the rules of the protocol', () => {
  async function raw(): Promise<RawPeer> {
    const [near, far] = await pair();
    new TtrpcServer(far, services({ contexts: [], aborted: 0 }));
    return new RawPeer(near);
  }

  test('stream ids are odd and increase', async () => {
    const peer = await raw();
    peer.request(2, 'echo');
    expect(await peer.response()).toMatchObject({
      streamId: 2,
      code: 3,
      message: expect.stringContaining('must be odd'),
    });
    peer.request(5, 'echo');
    expect(await peer.response()).toMatchObject({ streamId: 5, code: 0 });
    peer.request(5, 'echo');
    expect(await peer.response()).toMatchObject({
      code: 3,
      message: expect.stringContaining('re-used'),
    });
    peer.request(3, 'echo');
    expect(await peer.response()).toMatchObject({
      code: 3,
      message: expect.stringContaining('increment'),
    });
  });

  test('data of a stream that is not open is refused', async () => {
    const peer = await raw();
    peer.send({ streamId: 1, type: frameType.data, data: bytes('x') });
    expect(await peer.response()).toMatchObject({
      code: 3,
      message: expect.stringContaining('no longer active'),
    });
  });

  test('a request that is too long is refused, and the next one served', async () => {
    const peer = await raw();
    const length = MAX_DATA_BYTES + 1;
    const header = encodeHeader({ streamId: 1, type: frameType.request, flags: 0 }, 0);
    header.writeUInt32BE(length, 0);
    peer.socket.write(header);
    peer.socket.write(Buffer.alloc(length));
    expect(await peer.response()).toMatchObject({ streamId: 1, code: 8 });
    peer.request(3, 'echo');
    expect(await peer.response()).toMatchObject({ streamId: 3, code: 0 });
  });

  test('a request that is not protobuf is refused, and the next one served', async () => {
    const peer = await raw();
    peer.send({ streamId: 1, type: frameType.request, data: Uint8Array.of(0xff, 0xff) });
    expect((await peer.response()).code).not.toBe(0);
    peer.request(3, 'echo');
    expect(await peer.response()).toMatchObject({ streamId: 3, code: 0 });
  });

  test('frames of unknown types are ignored', async () => {
    const peer = await raw();
    peer.send({ streamId: 1, type: 77, data: bytes('x') });
    peer.request(1, 'echo');
    expect(await peer.response()).toMatchObject({ streamId: 1, code: 0 });
  });

  test('a peer that asks and never reads is not read for ever', async () => {
    const [near, far] = await pair();
    new TtrpcServer(far, services({ contexts: [], aborted: 0 }));
    near.pause();
    const bad = encodeFrame({ streamId: 2, type: frameType.request, flags: 0, data: bytes('x') });
    const many = Buffer.concat(Array(4096).fill(bad));
    let written = 0;
    const flood = (): void => {
      while (!near.destroyed && near.write(many)) written += many.length;
      if (!near.destroyed) near.once('drain', flood);
    };
    flood();
    await steady(() => near.bytesWritten - near.writableLength);
    expect(far.writableLength).toBeLessThan(4 * 2 ** 20);
    expect(written).toBeGreaterThan(0);
  });
});

describe('the client does not trust the server', () => {
  async function raw(): Promise<[TtrpcClient, Socket]> {
    const [near, far] = await pair();
    return [new TtrpcClient(near), far];
  }

  test('frames of streams that it never opened are ignored', async () => {
    const [client, far] = await raw();
    const call = client.call('test', 'any', new Uint8Array());
    far.write(encodeFrame({ streamId: 99, type: frameType.response, flags: 0, data: bytes('x') }));
    far.write(
      encodeFrame({ streamId: 1, type: frameType.response, flags: 0, data: new Uint8Array() }),
    );
    expect(await call).toHaveLength(0);
  });

  test('a response that is not protobuf fails the call', async () => {
    const [client, far] = await raw();
    const call = rejection(client.call('test', 'any', new Uint8Array()));
    far.write(
      encodeFrame({ streamId: 1, type: frameType.response, flags: 0, data: bytes('\xff') }),
    );
    expect((await call).code).toBe('ERR_RPC_PROTOCOL');
  });

  test('data in answer to a unary call fails the call', async () => {
    const [client, far] = await raw();
    const call = rejection(client.call('test', 'any', new Uint8Array()));
    far.write(encodeFrame({ streamId: 1, type: frameType.data, flags: 0, data: bytes('x') }));
    expect((await call).code).toBe('ERR_RPC_PROTOCOL');
  });

  test('a message that is too long fails the stream, and the connection goes on', async () => {
    const [client, far] = await raw();
    const stream = await client.openStream('test', 'any');
    const length = MAX_DATA_BYTES + 1;
    const header = encodeHeader({ streamId: 1, type: frameType.data, flags: 0 }, 0);
    header.writeUInt32BE(length, 0);
    far.write(header);
    far.write(Buffer.alloc(length));
    expect((await rejection(stream.receive())).code).toBe('ERR_RPC_RESOURCE_EXHAUSTED');
    const call = client.call('test', 'any', new Uint8Array());
    far.write(
      encodeFrame({ streamId: 3, type: frameType.response, flags: 0, data: new Uint8Array() }),
    );
    expect(await call).toHaveLength(0);
  });

  test('a stream of empty messages that nobody reads is not buffered for ever', async () => {
    const [client, far] = await raw();
    await client.openStream('test', 'any');
    const empty = encodeFrame({
      streamId: 1,
      type: frameType.data,
      flags: 0,
      data: new Uint8Array(),
    });
    const many = Buffer.concat(Array(4096).fill(empty));
    const before = process.memoryUsage().heapUsed;
    for (let round = 0; round < 2000 && far.write(many); round += 1);
    const drained = await Promise.race([once(far, 'drain').then(() => true), sleep(500, false)]);
    expect(drained).toBe(false);
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(64 * 2 ** 20);
  });

  test('garbage ends nothing but what it hits', async () => {
    const [client, far] = await raw();
    far.write(randomBytes(64).fill(0, 0, 1));
    far.destroy();
    expect((await client.closed).code).toBe('ERR_RPC_CONNECTION_LOST');
  });

  test('remote-closed with data delivers the data first', async () => {
    const [client, far] = await raw();
    const stream = await client.openStream('test', 'any');
    far.write(
      encodeFrame({
        streamId: 1,
        type: frameType.data,
        flags: frameFlag.remoteClosed,
        data: bytes('last'),
      }),
    );
    expect(await collect(stream)).toEqual(['last']);
  });
});
