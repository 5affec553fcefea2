/** What a command on a terminal needs of its sandbox: that of any command, and a raw stream. */
import type { Socket } from 'node:net';
import type { TerminalSize } from '../config/exec.js';
import type { LogSource } from '../config/logs.js';
import type { CommandChannel, ExecChannel, ExecStart } from '../rpc/exec-channel.js';
import { openRawStream, RAW_PORT } from '../rpc/raw-stream.js';
import type { ExecHost } from './execution.js';
import { TerminalChannel } from './terminal-channel.js';

/** What the terminals of people understand today. */
export const TERMINAL_ENV: Readonly<Record<string, string>> = { TERM: 'xterm-256color' };

export interface TerminalParent extends ExecHost {
  open(start: ExecStart, signal: AbortSignal): Promise<ExecChannel>;
  connect(port: number, signal: AbortSignal): Promise<Socket>;
}

/** Our end of a terminal, before the program starts. */
export interface TerminalEnd {
  readonly size: TerminalSize;
  /** Hands over to the program's channel. */
  channel(exec: ExecChannel): CommandChannel;
  /** The program did not start. */
  discard(): void;
}

/** Takes a raw stream of which nothing was read yet. */
export type TakeStream = (stream: Socket, execId: bigint) => TerminalEnd;

export class TerminalHost implements ExecHost {
  readonly #parent: TerminalParent;
  readonly #take: TakeStream;

  constructor(parent: TerminalParent, take: TakeStream) {
    this.#parent = parent;
    this.#take = take;
  }

  async open(start: ExecStart, signal: AbortSignal): Promise<CommandChannel> {
    const stream = `exec-${start.execId}`;
    const end = this.#take(await this.#openStream(stream, signal), start.execId);
    try {
      const terminal = { ...end.size, stream };
      return end.channel(await this.#parent.open({ ...start, terminal }, signal));
    } catch (error) {
      end.discard();
      throw error;
    }
  }

  nextExecId(): bigint {
    return this.#parent.nextExecId();
  }

  signal(execId: bigint, signal: number): Promise<void> {
    return this.#parent.signal(execId, signal);
  }

  resize(execId: bigint, size: TerminalSize): Promise<void> {
    return this.#parent.resize(execId, size);
  }

  log(execId: bigint, source: LogSource, data: Uint8Array): Promise<void> | undefined {
    return this.#parent.log(execId, source, data);
  }

  closed(execId: bigint): void {
    this.#parent.closed(execId);
  }

  explain(error: unknown): Promise<unknown> {
    return this.#parent.explain(error);
  }

  async #openStream(id: string, signal: AbortSignal): Promise<Socket> {
    const stream = await this.#parent.connect(RAW_PORT, signal);
    const stop = (): void => {
      stream.destroy();
    };
    signal.addEventListener('abort', stop);
    try {
      await openRawStream(stream, id);
      return stream;
    } finally {
      signal.removeEventListener('abort', stop);
    }
  }
}

/** A terminal whose bytes are read and written here. */
export function streamedTerminal(size: TerminalSize): TakeStream {
  return (stream) => ({
    size,
    channel: (exec) => new TerminalChannel(exec, stream),
    discard: () => stream.destroy(),
  });
}
