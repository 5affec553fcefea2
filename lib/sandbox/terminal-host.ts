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

export class TerminalHost implements ExecHost {
  readonly #parent: TerminalParent;
  readonly #size: TerminalSize;

  constructor(parent: TerminalParent, size: TerminalSize) {
    this.#parent = parent;
    this.#size = size;
  }

  async open(start: ExecStart, signal: AbortSignal): Promise<CommandChannel> {
    const id = `exec-${start.execId}`;
    const stream = await this.#parent.connect(RAW_PORT, signal);
    const stop = (): void => {
      stream.destroy();
    };
    signal.addEventListener('abort', stop);
    try {
      await openRawStream(stream, id);
      const terminal = { ...this.#size, stream: id };
      const exec = await this.#parent.open({ ...start, terminal }, signal);
      return this.channel(exec, stream);
    } catch (error) {
      stream.destroy();
      throw error;
    } finally {
      signal.removeEventListener('abort', stop);
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

  protected channel(exec: ExecChannel, stream: Socket): CommandChannel {
    return new TerminalChannel(exec, stream);
  }
}
