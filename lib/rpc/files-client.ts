/** The agent's file operations as messages: quick ones as bytes, others as a channel. */
import type { Duplex } from 'node:stream';
import { TtrpcClient } from './client.js';
import { decode, encode } from './codec.js';
import { FileChange, FileEvent, FileFlag, type FileInfo, FileRequest } from './gen/files_pb.js';
import type { TtrpcStream } from './stream.js';

export { FileChange, type FileEvent, FileFlag, type FileInfo };

export const FILES_SERVICE = 'embervm.agent.v1.Files';
/** The agent takes no longer data in one message. */
export const MAX_FILE_MESSAGE: number = 64 * 1024;

export type FileMethod =
  | 'Stat'
  | 'ReadLink'
  | 'MakeDirectory'
  | 'Remove'
  | 'Rename'
  | 'MakeSymlink'
  | 'SetAttributes';
export type FileStreamMethod = 'Read' | 'Write' | 'List' | 'RemoveTree' | 'Copy' | 'Watch';
/** What is not said is empty or 0. */
export type FileQuestion = Partial<FileRequest>;

const empty = new Uint8Array();

export function encodeFileRequest(question: FileQuestion): Uint8Array {
  return encode(FileRequest, {
    path: empty,
    target: empty,
    data: empty,
    flags: 0,
    mode: 0,
    uid: 0,
    gid: 0,
    mtimeNs: 0n,
    offset: 0n,
    length: 0n,
    ...question,
  });
}

export function decodeFileEvent(bytes: Uint8Array): FileEvent {
  return decode(FileEvent, bytes, 'an answer about a file');
}

/** One long operation on a connection of its own, which it owns. */
export class FileChannel {
  readonly #client: TtrpcClient;
  readonly #stream: TtrpcStream;

  private constructor(client: TtrpcClient, stream: TtrpcStream) {
    this.#client = client;
    this.#stream = stream;
  }

  static async open(
    connection: Duplex,
    method: FileStreamMethod,
    question: FileQuestion,
  ): Promise<FileChannel> {
    const client = new TtrpcClient(connection);
    try {
      const stream = await client.openStream(FILES_SERVICE, method);
      const channel = new FileChannel(client, stream);
      await channel.send(question);
      return channel;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** Resolves when more can be taken. */
  async send(question: FileQuestion): Promise<void> {
    await this.#stream.send(encodeFileRequest(question));
  }

  /** Nothing follows. */
  async end(): Promise<void> {
    await this.#stream.closeSend();
  }

  /** The next event, or `undefined` when the agent has no more to say. */
  async receive(): Promise<FileEvent | undefined> {
    const message = await this.#stream.receive();
    return message === undefined ? undefined : decodeFileEvent(message);
  }

  /** Ends the operation, done or not. */
  close(): void {
    this.#stream.cancel();
    this.#client.close();
  }
}
