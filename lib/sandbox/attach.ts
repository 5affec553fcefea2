/** A terminal of this host, connected to a terminal in the guest: the addon moves the bytes. */
import { constants } from 'node:os';
import type { ResolvedAttachOptions, TerminalInput, TerminalOutput } from '../config/attach.js';
import type { TerminalSize } from '../config/exec.js';
import { createError, EmbervmError, ExecError, fromNative } from '../errors.js';
import { descriptorOf } from '../machine/stream.js';
import { loadBinding } from '../native/binding.js';
import type { NativeTerminalRelay } from '../native/types.js';
import type {
  AgentExecEvent,
  CommandChannel,
  ExecChannel,
  ExecStart,
} from '../rpc/exec-channel.js';
import { CommandExecution } from './execution.js';
import { type TakeStream, TerminalHost, type TerminalParent } from './terminal-host.js';
import type { ExecResult } from './types.js';

/** Shells report a death by signal so, and callers pass the number on to `process.exit`. */
const SIGNAL_EXIT_CODE = 128;
/** Of terminals that do not know how large they are, such as a serial line. */
const UNKNOWN_SIZE: TerminalSize = { rows: 24, cols: 80 };

/** Runs a command on the caller's terminal; resolves to its exit code, or to 0 when detached. */
export async function attach(
  parent: TerminalParent,
  start: Omit<ExecStart, 'execId'>,
  options: ResolvedAttachOptions,
): Promise<number> {
  let detach = (): void => {};
  const detached = new Promise<'detached'>((resolve) => {
    detach = () => resolve('detached');
  });
  const host = new TerminalHost(parent, relayedTerminal(parent, options, detach));
  const execution = new CommandExecution<string>(host, start, options.exec);
  const outcome = await Promise.race([execution, detached]);
  if (outcome !== 'detached') return exitCodeOf(outcome);
  options.onDetach?.(await execution.pid);
  return 0;
}

function exitCodeOf({ exitCode, signal }: ExecResult): number {
  if (exitCode !== null) return exitCode;
  const number = constants.signals[signal as NodeJS.Signals] as number | undefined;
  return SIGNAL_EXIT_CODE + (number ?? 0);
}

/** Terminal and raw stream go to the addon before the program can write a byte. */
function relayedTerminal(
  parent: TerminalParent,
  options: ResolvedAttachOptions,
  detach: () => void,
): TakeStream {
  return (stream, execId) => {
    const { input = process.stdin, output = process.stdout, detachKeys } = options;
    try {
      const relay = loadBinding().createTerminalRelay({
        input: typeof input === 'number' ? input : input.fd,
        output: typeof output === 'number' ? output : output.fd,
        stream: descriptorOf(stream),
        detachKeys,
      });
      const terminal = new HostTerminal(relay, input, output);
      return {
        size: terminal.size(),
        channel: (exec) =>
          new AttachedChannel(exec, terminal, detach, (size) => parent.resize(execId, size)),
        discard: () => relay.close(),
      };
    } catch (error) {
      throw terminalError(error);
    } finally {
      // The addon has a descriptor of its own.
      stream.destroy();
    }
  };
}

type Resize = (size: TerminalSize) => Promise<void>;
class HostTerminal {
  readonly #relay: NativeTerminalRelay;
  readonly #input: TerminalInput;
  readonly #output: TerminalOutput;

  constructor(relay: NativeTerminalRelay, input: TerminalInput, output: TerminalOutput) {
    this.#relay = relay;
    this.#input = input;
    this.#output = output;
  }

  size(): TerminalSize {
    const { rows, cols } = this.#relay.size();
    return { rows: rows || UNKNOWN_SIZE.rows, cols: cols || UNKNOWN_SIZE.cols };
  }

  /** Raw mode until the end; nobody else may read the keyboard meanwhile. */
  async run(resize: Resize): Promise<'ended' | 'detached' | 'gone' | 'stopped'> {
    const input = typeof this.#input === 'number' ? undefined : this.#input;
    const flowing = input?.readableFlowing === true;
    if (flowing) input?.pause();
    const unwatch = this.#watchSize(resize);
    const restore = (): void => this.#relay.close();
    process.on('exit', restore);
    try {
      return await this.#relay.run();
    } catch (error) {
      throw terminalError(error);
    } finally {
      process.off('exit', restore);
      unwatch();
      if (flowing) input?.resume();
    }
  }

  close(): void {
    this.#relay.close();
  }

  #watchSize(resize: Resize): () => void {
    let last = this.size();
    const onChange = (): void => {
      let size = last;
      try {
        size = this.size();
      } catch {
        // The terminal has gone, which the relay reports.
      }
      if (size.rows === last.rows && size.cols === last.cols) return;
      last = size;
      // A program that has ended needs no size, and a lost guest is reported elsewhere.
      resize(size).catch(() => {});
    };
    const output = typeof this.#output === 'number' ? undefined : this.#output;
    process.on('SIGWINCH', onChange);
    output?.on('resize', onChange);
    return () => {
      process.off('SIGWINCH', onChange);
      output?.off('resize', onChange);
    };
  }
}

class AttachedChannel implements CommandChannel {
  readonly #exec: ExecChannel;
  readonly #terminal: HostTerminal;
  readonly #detach: () => void;
  readonly #resize: Resize;
  #started = false;

  constructor(exec: ExecChannel, terminal: HostTerminal, detach: () => void, resize: Resize) {
    this.#exec = exec;
    this.#terminal = terminal;
    this.#detach = detach;
    this.#resize = resize;
  }

  async receive(): Promise<AgentExecEvent | undefined> {
    if (this.#started) {
      this.#started = false;
      await this.#relay();
    }
    const event = await this.#exec.receive();
    this.#started = event?.type === 'started';
    return event;
  }

  /** The keyboard is the addon's. */
  async writeStdin(): Promise<void> {
    throw createError('ERR_INTERNAL', 'an attached terminal has no other input');
  }

  async closeStdin(): Promise<void> {}

  close(): void {
    this.#terminal.close();
    this.#exec.close();
  }

  /** Until the stream has ended; its end means that the exit follows, or that the guest is lost. */
  async #relay(): Promise<void> {
    const end = await this.#terminal.run(this.#resize);
    if (end === 'detached') this.#detach();
    if (end === 'gone') {
      throw new ExecError(
        'ERR_TERMINAL',
        'the terminal that was attached has gone; the program in the guest was hung up',
      );
    }
  }
}

/** `ERR_TERMINAL`, `ERR_NOT_A_TERMINAL` and the rest of what the addon says, typed. */
function terminalError(error: unknown): EmbervmError {
  return error instanceof EmbervmError ? error : fromNative(error);
}
