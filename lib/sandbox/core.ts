/** A booted sandbox: its machine, its agent, its commands and its end. */
import type { Socket } from 'node:net';
import {
  checkCommandBytes,
  type ExecOptions,
  parseCommand,
  parseExecOptions,
  type TerminalSize,
} from '../config/exec.js';
import { parseStopOptions, type StopOptions } from '../config/machine.js';
import {
  type MetricsOptions,
  type MetricsStreamOptions,
  parseMetricsOptions,
  parseMetricsStreamOptions,
  type ResolvedMetricsOptions,
} from '../config/metrics.js';
import type { ResolvedSandboxOptions } from '../config/sandbox.js';
import { MachineError, RpcError, SandboxError } from '../errors.js';
import type { Machine } from '../machine/machine.js';
import type { MachineExit, VsockListener } from '../machine/types.js';
import { abortable, waitFor } from '../machine/wait.js';
import { AGENT_PORT, type AgentClient } from '../rpc/agent-client.js';
import { ExecChannel, type ExecStart } from '../rpc/exec-channel.js';
import type { SandboxDir } from '../state/sandbox-dir.js';
import { CommandExecution, type ExecHost } from './execution.js';
import { metricsStream, sampleMetrics } from './metrics.js';
import { type EndRequest, sandboxGone, stopReason, stopResult } from './stop-result.js';
import { TERMINAL_ENV, TerminalHost } from './terminal-host.js';
import type { BootReport, Execution, Metrics, SandboxStatus, StopResult } from './types.js';

const MIB = 1024 * 1024;
const TAIL_BYTES = 16 * 1024;
/** How long a machine may outlive its agent before it is killed. */
const AGENT_LOST_MS = 5_000;
const SIGNAL_TIMEOUT_MS = 10_000;

export interface SandboxParts {
  id: string;
  name: string;
  options: ResolvedSandboxOptions;
  machine: Machine;
  agent: AgentClient;
  directory: SandboxDir;
  bootReport: BootReport;
}

export class SandboxCore implements ExecHost {
  readonly id: string;
  readonly name: string;
  readonly bootReport: BootReport;
  readonly #options: ResolvedSandboxOptions;
  readonly #machine: Machine;
  readonly #agent: AgentClient;
  readonly #directory: SandboxDir;
  readonly #ended: Promise<StopResult>;
  readonly #running = new Set<bigint>();
  readonly #startedAt = performance.now();
  #status: SandboxStatus = 'running';
  #request: EndRequest;
  #agentLost = false;
  #lastExecId = 0n;
  #consoleTail = '';
  #exitMessage = '';

  constructor(parts: SandboxParts) {
    this.id = parts.id;
    this.name = parts.name;
    this.bootReport = parts.bootReport;
    this.#options = parts.options;
    this.#machine = parts.machine;
    this.#agent = parts.agent;
    this.#directory = parts.directory;
    this.#machine.onPowerOff((timeoutMs) => this.#powerOff(timeoutMs));
    this.#ended = this.#machine.waitUntilStopped().then((exit) => this.#release(exit));
    // Whoever stops, closes or waits gets the error.
    this.#ended.catch(() => {});
    void this.#watchAgent();
  }

  get status(): SandboxStatus {
    return this.#status;
  }

  exec<Out extends string | Uint8Array>(
    file: string,
    args: readonly string[],
    input: ExecOptions | undefined,
  ): Execution<Out> {
    const options = parseExecOptions(input);
    const argv = parseCommand(file, args);
    const terminalEnv = options.tty === undefined ? {} : TERMINAL_ENV;
    const env = Object.entries({ ...terminalEnv, ...this.#options.env, ...options.env }).map(
      ([key, value]) => `${key}=${value}`,
    );
    checkCommandBytes([...argv, ...env]);
    const start: Omit<ExecStart, 'execId'> = {
      args: argv,
      env,
      cwd: options.cwd ?? this.#options.workdir,
      user: options.user ?? this.#options.user,
      // A terminal has its input where its output is.
      stdin: options.stdin !== 'null' && options.tty === undefined,
      rlimits: options.rlimits,
      restricted: this.#options.securityProfile === 'restricted',
    };
    const host = options.tty === undefined ? this : new TerminalHost(this, options.tty);
    return new CommandExecution<Out>(host, start, options);
  }

  shell<Out extends string | Uint8Array>(
    script: string,
    input: ExecOptions | undefined,
  ): Execution<Out> {
    return this.exec(this.#options.shell, ['-c', script], input);
  }

  nextExecId(): bigint {
    this.#lastExecId += 1n;
    return this.#lastExecId;
  }

  async open(start: ExecStart, signal: AbortSignal): Promise<ExecChannel> {
    this.#requireRunning();
    const connection = await this.#machine.connectVsock(AGENT_PORT, { signal });
    this.#running.add(start.execId);
    if (signal.aborted) connection.destroy();
    return ExecChannel.start(connection, start);
  }

  closed(execId: bigint): void {
    this.#running.delete(execId);
  }

  async signal(execId: bigint, signal: number): Promise<void> {
    try {
      await this.#agent.signal(execId, signal, true, { timeoutMs: SIGNAL_TIMEOUT_MS });
    } catch (error) {
      throw await this.explain(error);
    }
  }

  async resize(execId: bigint, size: TerminalSize): Promise<void> {
    try {
      await this.#agent.resize(execId, size, { timeoutMs: SIGNAL_TIMEOUT_MS });
    } catch (error) {
      throw await this.explain(error);
    }
  }

  async explain(error: unknown): Promise<unknown> {
    const lost =
      error instanceof MachineError ||
      (error instanceof RpcError && error.code === 'ERR_RPC_CONNECTION_LOST');
    if (!lost) return error;
    // The end of a machine closes its connections first; its reason comes a moment later.
    const ending = this.#ended.catch(() => undefined);
    await waitFor(ending, { what: 'the end', timeoutMs: AGENT_LOST_MS });
    if (this.#agentLost || this.#machine.exit !== undefined) await ending;
    const { exit } = this.#machine;
    if (exit === undefined) return error;
    const result = stopResult(this.name, stopReason(exit, this.#request));
    return sandboxGone(result, this.#consoleTail, this.#exitMessage);
  }

  async connect(port: number, signal: AbortSignal | undefined): Promise<Socket> {
    this.#requireRunning();
    return this.#machine.connectVsock(port, { signal });
  }

  listen(port: number, onConnection: (stream: Socket) => void): VsockListener {
    this.#requireRunning();
    return this.#machine.listenVsock(port, onConnection);
  }

  async stop(input: StopOptions | undefined): Promise<StopResult> {
    const options = parseStopOptions(input);
    if (this.#machine.exit === undefined) {
      this.#request ??= 'stop';
      this.#status = 'stopping';
      await this.#machine.stop(options);
    }
    return this.#ended;
  }

  async kill(input: StopOptions | undefined): Promise<StopResult> {
    const { signal } = parseStopOptions(input);
    if (this.#machine.exit === undefined) {
      this.#request ??= 'kill';
      this.#status = 'stopping';
      await abortable(this.#machine.kill(), signal, 'killing the sandbox');
    }
    return this.#ended;
  }

  async close(): Promise<void> {
    await this.kill(undefined);
  }

  waitUntilStopped(signal: AbortSignal | undefined): Promise<StopResult> {
    return abortable(this.#ended, signal, 'waiting for the sandbox');
  }

  async metrics(input: MetricsOptions | undefined): Promise<Metrics> {
    return this.#sample(parseMetricsOptions(input), undefined);
  }

  metricsStream(input: MetricsStreamOptions | undefined): AsyncGenerator<Metrics, void, void> {
    const options = parseMetricsStreamOptions(input);
    return metricsStream((since) => this.#sample(options, since), this.#ended, options);
  }

  async #sample({ guest }: ResolvedMetricsOptions, since: Metrics | undefined): Promise<Metrics> {
    this.#requireRunning();
    return sampleMetrics(
      {
        startedAt: this.#startedAt,
        limitBytes: this.#options.memoryMib * MIB,
        stats: () => this.#machine.stats(),
        guestMemory: async (timeoutMs) => (guest ? this.#agent.getMemory({ timeoutMs }) : null),
        runningProcesses: () => this.#running.size,
      },
      since,
    );
  }

  ref(): void {
    this.#machine.ref();
  }

  unref(): void {
    this.#machine.unref();
  }

  #requireRunning(): void {
    if (this.#status === 'running') return;
    throw new SandboxError(
      'ERR_SANDBOX_NOT_RUNNING',
      `the sandbox "${this.name}" is ${this.#status}; create another`,
      { context: { name: this.name, status: this.#status } },
    );
  }

  async #powerOff(timeoutMs: number): Promise<void> {
    // The other half is for the guest to sync, unmount and go.
    await this.#agent.powerOff(Math.floor(timeoutMs / 2), { timeoutMs });
  }

  /** A machine without its agent is of no use to anybody. */
  async #watchAgent(): Promise<void> {
    await this.#agent.closed;
    this.#agentLost = true;
    const ended = this.#ended.catch(() => undefined);
    const over = this.#request !== undefined || this.#machine.exit !== undefined;
    if (over || (await waitFor(ended, { what: 'the end', timeoutMs: AGENT_LOST_MS }))) return;
    this.#request ??= 'agent_lost';
    await this.#machine.kill().catch(() => {});
  }

  /** The machine has ended: nothing of it stays. */
  async #release(exit: MachineExit): Promise<StopResult> {
    const result = stopResult(this.name, stopReason(exit, this.#request));
    this.#consoleTail = this.#machine.consoleTail(TAIL_BYTES);
    this.#exitMessage = exit.message;
    this.#status = result.status;
    this.#agent.close();
    await this.#machine.close();
    await this.#directory.remove();
    return result;
  }
}
