/** A command on a terminal: its events on one connection, its bytes on a raw stream. */
import type { Socket } from 'node:net';
import { own } from '../rpc/codec.js';
import type { AgentExecEvent, CommandChannel, ExecChannel } from '../rpc/exec-channel.js';
import { readSome, writeAll } from '../rpc/raw-stream.js';

/** Ctrl-D, which ends the input of a terminal in its usual mode. */
const END_OF_INPUT = 4;
const NEWLINES: readonly (number | undefined)[] = [undefined, 10, 13];

export class TerminalChannel implements CommandChannel {
  readonly #exec: ExecChannel;
  readonly #stream: Socket;
  #running = false;
  #lastTyped: number | undefined;
  #inputEnded = false;

  constructor(exec: ExecChannel, stream: Socket) {
    this.#exec = exec;
    this.#stream = stream;
  }

  /** What the terminal shows is `stdout`; the agent ends its stream before it tells the exit. */
  async receive(): Promise<AgentExecEvent | undefined> {
    if (this.#running) {
      const data = await readSome(this.#stream);
      if (data !== undefined) return { type: 'stdout', data: own(data) };
    }
    const event = await this.#exec.receive();
    this.#running = event?.type === 'started';
    return event;
  }

  async writeStdin(data: Uint8Array): Promise<void> {
    if (data.length === 0) return;
    this.#lastTyped = data[data.length - 1];
    await writeAll(this.#stream, data);
  }

  /** Types what a person would: Ctrl-D, and once more where the first only ends a line. */
  async closeStdin(): Promise<void> {
    if (this.#inputEnded) return;
    this.#inputEnded = true;
    const once = NEWLINES.includes(this.#lastTyped);
    await writeAll(this.#stream, Buffer.alloc(once ? 1 : 2, END_OF_INPUT));
  }

  close(): void {
    this.#stream.destroy();
    this.#exec.close();
  }
}
