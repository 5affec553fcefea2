/** One command in a sandbox: promise, streams and events over one connection to the agent. */
import type { Readable, Writable } from 'node:stream';
import { parseTerminalSize, type ResolvedExecOptions, type TerminalSize } from '../config/exec.js';
import type { LogSource } from '../config/logs.js';
import { ConfigError, ExecError, RpcError } from '../errors.js';
import type { AgentExecEvent, CommandChannel, ExecStart } from '../rpc/exec-channel.js';
import {
  failedToStart,
  type LimitKind,
  limitError,
  refusedByAgent,
  withoutTerminal,
} from './exec-errors.js';
import { Handoff } from './handoff.js';
import { OutputSink } from './output.js';
import { SIGKILL, signalName, signalNumber } from './signals.js';
import { createStdin, feedStdin, StdinWriteError } from './stdin.js';
import type { ExecEvent, ExecResult, Execution } from './types.js';

/** After a kill, how long the guest may take to report the end. */
const KILL_GRACE_MS = 10_000;

type Output = string | Uint8Array;
type OutputEvent = Extract<ExecEvent, { data: Uint8Array }>;
type Exit = Extract<AgentExecEvent, { type: 'exited' }>;

/** What an execution needs of its sandbox. */
export interface ExecHost {
  nextExecId(): bigint;
  /** Connects and asks for the process; how that went is the first event. */
  open(start: ExecStart, signal: AbortSignal): Promise<CommandChannel>;
  signal(execId: bigint, signal: number): Promise<void>;
  resize(execId: bigint, size: TerminalSize): Promise<void>;
  /** Puts output on record; a promise where that takes a while. */
  log(execId: bigint, source: LogSource, data: Uint8Array): Promise<void> | undefined;
  /** The command is over, however. */
  closed(execId: bigint): void;
  /** The error to report for a connection that was lost. */
  explain(error: unknown): Promise<unknown>;
}

interface Limit {
  kind: LimitKind;
  cause?: unknown;
}

interface Deferred<Value> {
  promise: Promise<Value>;
  resolve(value: Value): void;
  reject(error: unknown): void;
}

export class CommandExecution<Out extends Output> implements Execution<Out> {
  readonly stdin: Writable | null;
  readonly #host: ExecHost;
  readonly #start: ExecStart;
  readonly #options: ResolvedExecOptions;
  readonly #sinks: { stdout: OutputSink; stderr: OutputSink };
  readonly #pid = deferred<number>();
  readonly #channel = deferred<CommandChannel>();
  readonly #demand = deferred<void>();
  readonly #ended = deferred<void>();
  readonly #opening = new AbortController();
  readonly #result: Promise<ExecResult<Out>>;
  #events: Handoff<OutputEvent> | undefined;
  #early: OutputEvent[] = [];
  #limit: Limit | undefined;
  #grace: NodeJS.Timeout | undefined;
  #over = false;

  constructor(host: ExecHost, start: Omit<ExecStart, 'execId'>, options: ResolvedExecOptions) {
    this.#host = host;
    this.#start = { ...start, execId: host.nextExecId() };
    this.#options = options;
    const demand = (): void => this.#demand.resolve();
    this.#sinks = {
      stdout: new OutputSink(options.maxBuffer, demand),
      stderr: new OutputSink(options.maxBuffer, demand),
    };
    this.stdin = options.stdin === 'pipe' ? createStdin(this.#channel.promise) : null;
    this.#result = this.#run();
    // Whoever wants the error awaits the execution; nobody has to.
    this.#result.catch(() => {});
  }

  get pid(): Promise<number> {
    return this.#pid.promise;
  }

  get stdout(): Readable {
    return this.#sinks.stdout.stream();
  }

  get stderr(): Readable | null {
    return this.#options.tty === undefined ? this.#sinks.stderr.stream() : null;
  }

  // biome-ignore lint/suspicious/noThenProperty: an execution is awaited for its result.
  then<Value = ExecResult<Out>, Other = never>(
    onFulfilled?: ((result: ExecResult<Out>) => Value | PromiseLike<Value>) | null,
    onRejected?: ((reason: unknown) => Other | PromiseLike<Other>) | null,
  ): Promise<Value | Other> {
    this.#sinks.stdout.want();
    this.#sinks.stderr.want();
    this.#demand.resolve();
    return this.#result.then(onFulfilled, onRejected);
  }

  catch<Other>(
    onRejected: (reason: unknown) => Other | PromiseLike<Other>,
  ): Promise<ExecResult<Out> | Other> {
    return this.then(undefined, onRejected);
  }

  finally(onFinally: () => void): Promise<ExecResult<Out>> {
    return this.then().finally(onFinally);
  }

  async kill(signal: NodeJS.Signals | number = 'SIGTERM'): Promise<void> {
    const number = signalNumber(signal);
    try {
      await this.#pid.promise;
    } catch {
      return;
    }
    if (!this.#over) await this.#host.signal(this.#start.execId, number);
  }

  async resize(rows: number, cols: number): Promise<void> {
    const size = parseTerminalSize(rows, cols);
    if (this.#options.tty === undefined) throw withoutTerminal(this.#file);
    try {
      await this.#pid.promise;
    } catch {
      return;
    }
    if (!this.#over) await this.#host.resize(this.#start.execId, size);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ExecEvent, void, void> {
    const events = this.#takeEvents();
    let left = true;
    try {
      yield { type: 'started', pid: await this.#started() };
      yield* this.#early.splice(0);
      for (;;) {
        const event = await events.take();
        if (event === undefined) break;
        yield event;
      }
      const { exitCode, signal } = await this.#result;
      left = false;
      yield { type: 'exited', exitCode, signal };
    } finally {
      if (left) await this.#abandon();
    }
  }

  /** Kills what still runs and waits for its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#abandon();
    await this.#result.catch(() => {});
  }

  #takeEvents(): Handoff<OutputEvent> {
    if (this.#events !== undefined) {
      throw new ConfigError('ERR_INVALID_CONFIG', 'an execution can be iterated over only once');
    }
    const events = new Handoff<OutputEvent>();
    this.#events = events;
    for (const type of ['stdout', 'stderr'] as const) {
      const data = this.#sinks[type].claim();
      if (data.length > 0) this.#early.push({ type, data });
    }
    if (this.#over) events.close();
    this.#demand.resolve();
    return events;
  }

  /** The pid, or the error of the execution, which says more than that there is no pid. */
  async #started(): Promise<number> {
    try {
      return await this.#pid.promise;
    } catch (error) {
      await this.#result;
      throw error;
    }
  }

  async #run(): Promise<ExecResult<Out>> {
    const startedAt = performance.now();
    const disarm = this.#arm();
    let channel: CommandChannel | undefined;
    let exit: Exit | undefined;
    try {
      channel = await this.#open();
      exit = await this.#pump(channel);
      return this.#finish(exit, startedAt);
    } catch (error) {
      const reported = await this.#explain(error, startedAt);
      this.#pid.reject(reported);
      this.#channel.reject(reported);
      throw reported;
    } finally {
      this.#over = true;
      disarm();
      clearTimeout(this.#grace);
      this.#ended.resolve();
      channel?.close();
      this.#host.closed(this.#start.execId);
      this.stdin?.destroy();
      this.#sinks.stdout.close(exit !== undefined && this.#limit === undefined);
      this.#sinks.stderr.close(exit !== undefined && this.#limit === undefined);
      this.#events?.close();
    }
  }

  async #open(): Promise<CommandChannel> {
    const { signal } = this.#opening;
    signal.throwIfAborted();
    const channel = await this.#host.open(this.#start, signal);
    this.#channel.resolve(channel);
    const { stdin } = this.#options;
    if (typeof stdin === 'object') {
      feedStdin(channel, stdin.source, this.#ended.promise).catch((cause: unknown) => {
        if (!(cause instanceof StdinWriteError)) this.#endBy({ kind: 'stdin', cause });
      });
    }
    return channel;
  }

  /** Hands out events until the last. */
  async #pump(channel: CommandChannel): Promise<Exit> {
    for (;;) {
      const event = await channel.receive();
      switch (event?.type) {
        case 'started':
          this.#pid.resolve(event.pid);
          break;
        case 'stdout':
        case 'stderr':
          await this.#deliver(event.type, event.data);
          break;
        case 'exited':
          return event;
        case 'failed':
          throw failedToStart(this.#file, event);
        default:
          throw new RpcError('ERR_RPC_PROTOCOL', 'the agent ended a command without its exit');
      }
    }
  }

  async #deliver(type: 'stdout' | 'stderr', data: Uint8Array): Promise<void> {
    const source = this.#options.tty === undefined ? type : 'output';
    const logged = this.#host.log(this.#start.execId, source, data);
    if (logged !== undefined) await logged;
    await this.#demand.promise;
    await this.#sinks[type].write(data);
    await this.#events?.put({ type, data });
  }

  #finish(exit: Exit, startedAt: number): ExecResult<Out> {
    const result = this.#resultOf(exit, startedAt);
    if (this.#limit !== undefined) throw this.#limitError(result);
    return result;
  }

  #resultOf(exit: Exit | undefined, startedAt: number): ExecResult<Out> {
    const { stdout, stderr } = this.#sinks;
    const toOutput = (bytes: Buffer): Out =>
      (this.#options.encoding === 'utf8' ? bytes.toString('utf8') : bytes) as Out;
    return {
      exitCode: exit?.exitCode ?? null,
      signal: exit?.signal == null ? null : signalName(exit.signal),
      success: exit?.exitCode === 0,
      stdout: toOutput(stdout.result()),
      stderr: toOutput(stderr.result()),
      durationMs: performance.now() - startedAt,
      timedOut: this.#limit?.kind === 'timeout',
      truncated: stdout.truncated || stderr.truncated,
    };
  }

  /** The error to report; its order is: what we did, what the agent said, what the VM's end says. */
  async #explain(error: unknown, startedAt: number): Promise<unknown> {
    if (error instanceof ExecError) return error;
    if (this.#limit !== undefined) return this.#limitError(this.#resultOf(undefined, startedAt));
    if (error instanceof RpcError && error.status !== undefined) {
      return refusedByAgent(this.#file, error);
    }
    return this.#host.explain(error);
  }

  get #file(): string {
    return this.#start.args[0] ?? '';
  }

  #limitError(result: ExecResult<Out>): ExecError {
    const { kind, cause } = this.#limit ?? { kind: 'abort' as const };
    return limitError(kind, this.#file, result, { timeoutMs: this.#options.timeoutMs, cause });
  }

  #arm(): () => void {
    const { timeoutMs, signal } = this.#options;
    const onAbort = (): void => this.#endBy({ kind: 'abort', cause: signal?.reason });
    const timer =
      timeoutMs === undefined
        ? undefined
        : setTimeout(() => this.#endBy({ kind: 'timeout' }), timeoutMs);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
    return () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
  }

  /** Kills the group; the execution ends as soon as the guest reports it. */
  #endBy(limit: Limit): void {
    if (this.#over || this.#limit !== undefined) return;
    this.#limit = limit;
    this.#drain();
    this.#opening.abort(limit.cause);
    this.#pid.promise.then(
      () => this.#killGroup(),
      () => {},
    );
  }

  #killGroup(): void {
    if (this.#over) return;
    this.#grace ??= setTimeout(() => {
      this.#channel.promise.then((channel) => channel.close()).catch(() => {});
    }, KILL_GRACE_MS);
    this.#host.signal(this.#start.execId, SIGKILL).catch(() => {
      // The guest does not answer: the grace above ends the execution.
    });
  }

  /** Output must not hold up the end any more. */
  #drain(): void {
    this.#demand.resolve();
    this.#sinks.stdout.drain();
    this.#sinks.stderr.drain();
    this.#events?.close();
  }

  async #abandon(): Promise<void> {
    if (this.#over) return;
    this.#drain();
    try {
      await this.#pid.promise;
    } catch {
      return;
    }
    this.#killGroup();
  }
}

function deferred<Value>(): Deferred<Value> {
  let resolve: (value: Value) => void = () => {};
  let reject: (error: unknown) => void = () => {};
  const promise = new Promise<Value>((onValue, onError) => {
    resolve = onValue;
    reject = onError;
  });
  promise.catch(() => {});
  return { promise, resolve, reject };
}
