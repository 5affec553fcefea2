/**
 * Raw streams of the agent: connections that carry bytes and nothing else, once
 * both sides have said which stream it is (agent.proto, Terminal).
 */
import type { Socket } from 'node:net';
import { RpcError } from '../errors.js';

/** Where the agent listens for raw streams in the guest. */
export const RAW_PORT = 1026;

const LENGTH_BYTES = 4;

/** Names a connection to {@link RAW_PORT}; not a byte behind the answer is read. */
export async function openRawStream(socket: Socket, id: string): Promise<void> {
  // The end of a stream is an end, however it comes: what it means is told elsewhere.
  socket.on('error', () => {});
  const name = Buffer.from(id);
  const head = Buffer.alloc(LENGTH_BYTES + name.length);
  head.writeUInt32BE(name.length);
  name.copy(head, LENGTH_BYTES);
  socket.write(head);
  const answer = await readSome(socket, head.length);
  if (answer?.equals(head)) return;
  socket.destroy();
  throw answer === undefined || answer.length < head.length
    ? new RpcError('ERR_RPC_CONNECTION_LOST', 'the agent has ended a raw stream that was to begin')
    : new RpcError(
        'ERR_RPC_PROTOCOL',
        'the agent has answered with the name of another raw stream',
      );
}

/** The next bytes, or exactly `size` of them unless the end comes first. `undefined` at the end. */
export async function readSome(socket: Socket, size?: number): Promise<Buffer | undefined> {
  for (;;) {
    const bytes = socket.read(size) as Buffer | null;
    if (bytes !== null) return bytes;
    if (socket.readableEnded || socket.destroyed) return undefined;
    await stirred(socket, ['readable', 'end', 'close']);
  }
}

/** Resolves when the stream can take more. */
export async function writeAll(socket: Socket, bytes: Uint8Array): Promise<void> {
  if (!socket.writable) throw new RpcError('ERR_RPC_CONNECTION_LOST', 'the raw stream has ended');
  if (!socket.write(bytes)) await stirred(socket, ['drain', 'close']);
}

function stirred(socket: Socket, events: readonly string[]): Promise<void> {
  return new Promise((resolve) => {
    const settle = (): void => {
      for (const event of events) socket.off(event, settle);
      resolve();
    };
    for (const event of events) socket.on(event, settle);
  });
}
