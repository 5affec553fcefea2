/** A booted sandbox: its machine, its agent and its commands. */
import type { Socket } from 'node:net';
import { join } from 'node:path';
import type { AttachOptions } from '../config/attach.js';
import {
  checkCommandBytes,
  type ExecOptions,
  parseCommand,
  parseExecOptions,
  type ResolvedExecOptions,
  type TerminalSize,
} from '../config/exec.js';
import type { LogOptions, LogSource, LogStreamOptions } from '../config/logs.js';
import {
  type MetricsOptions,
  type MetricsStreamOptions,
  parseMetricsOptions,
  parseMetricsStreamOptions,
  type ResolvedMetricsOptions,
} from '../config/metrics.js';
import { parseResizeOptions } from '../config/resize.js';
import type { ResolvedSandboxOptions } from '../config/sandbox.js';
import { ConfigError, MachineError, RpcError } from '../errors.js';
import type { Machine } from '../machine/machine.js';
import type { VsockListener } from '../machine/types.js';
import { abortable } from '../machine/wait.js';
import { AGENT_PORT, type AgentClient } from '../rpc/agent-client.js';
import { ExecChannel, type ExecStart } from '../rpc/exec-channel.js';
import type { ImagePin } from '../state/image-pin.js';
import type { LogEntry } from '../state/logs/entry.js';
import type { LogWriter } from '../state/logs/writer.js';
import type { TemplateGuest } from '../state/templates/template-store.js';
import { CommandExecution, type ExecHost } from './execution.js';
import { SandboxFiles } from './files.js';
import { Lifecycle, type LifecycleParts } from './lifecycle.js';
import { type LogSourceOf, readLogs, streamLogs } from './logs.js';
import { metricsStream, sampleMetrics } from './metrics.js';
import type { SandboxMounts } from './mounts.js';
import { Saving } from './saving.js';
import { withScripts } from './scripts.js';
import { streamedTerminal, TERMINAL_ENV, TerminalHost } from './terminal-host.js';
import type { BootReport, Execution, Metrics, ResizeResult, SandboxStatus } from './types.js';
import type { BootAssets } from './vm/boot-assets.js';

const MIB = 1024 * 1024;
const SIGNAL_TIMEOUT_MS = 10_000;
/** An emulated guest takes a while for each CPU. */
const RESIZE_TIMEOUT_MS = 120_000;

export interface SandboxParts extends Omit<LifecycleParts, 'limits'> {
  id: string;
  options: ResolvedSandboxOptions;
  bootReport: BootReport;
  /** Of its writable layer. */
  diskPath: string;
  /** What the machine was made of. */
  assets: BootAssets;
  image: ImagePin | undefined;
  /** `undefined`: it has none. */
  mounts?: SandboxMounts | undefined;
}

function guestOf({ guest }: BootReport): TemplateGuest {
  return { kernelRelease: guest.kernelRelease, agentVersion: guest.agentVersion };
}

export class SandboxCore implements ExecHost {
  readonly id: string;
  readonly name: string;
  readonly bootReport: BootReport;
  readonly image: ImagePin | undefined;
  /** Who may use it, and when and why it ends. */
  readonly lifecycle: Lifecycle;
  /** Copies of it. */
  readonly saving: Saving;
  readonly files: SandboxFiles;
  readonly #logs: LogWriter | undefined;
  readonly #logSource: LogSourceOf;
  readonly #options: ResolvedSandboxOptions;
  readonly #machine: Machine;
  readonly #agent: AgentClient;
  /** What to call when a command is over. */
  readonly #running = new Map<bigint, () => void>();
  readonly #startedAtNs: number;
  #lastExecId = 0n;

  constructor(parts: SandboxParts) {
    this.id = parts.id;
    this.name = parts.name;
    this.bootReport = parts.bootReport;
    this.image = parts.image;
    this.#options = parts.options;
    this.#machine = parts.machine;
    this.#agent = parts.agent;
    this.#startedAtNs = parts.machine.stats().atNs;
    parts.machine.onResizeVcpus((cpus) =>
      parts.agent.setOnlineCpus(cpus, { timeoutMs: RESIZE_TIMEOUT_MS }),
    );
    this.lifecycle = new Lifecycle({ ...parts, limits: parts.options });
    this.saving = new Saving({
      name: parts.name,
      lifecycle: this.lifecycle,
      machine: parts.machine,
      diskPath: parts.diskPath,
      guest: guestOf(parts.bootReport),
      hasMounts: parts.mounts?.hasDevices ?? false,
      base: parts.assets.base,
      image: parts.image,
      options: async () => (await parts.directory.records.config(parts.name))?.options ?? {},
    });
    this.#logs = parts.logs;
    this.#logSource = {
      log: { id: parts.id, directory: join(parts.directory.path, 'logs') },
      writer: parts.logs,
      isOver: async () => this.lifecycle.isOver,
    };
    this.#logs?.system('info', `booted in ${Math.round(parts.bootReport.totalMs)} ms`);
    this.files = new SandboxFiles({
      call: (method, request, signal) => this.#callFiles(method, request, signal),
      connect: (signal) => this.connect(AGENT_PORT, signal),
      explain: (error) => this.explain(error),
    });
  }

  get status(): SandboxStatus {
    return this.lifecycle.status;
  }

  exec<Out extends string | Uint8Array>(
    file: string,
    args: readonly string[],
    input: ExecOptions | undefined,
  ): Execution<Out> {
    const options = parseExecOptions(input);
    const start = this.#startOf(parseCommand(file, args), options);
    const { tty } = options;
    const host = tty === undefined ? this : new TerminalHost(this, streamedTerminal(tty));
    return new CommandExecution<Out>(host, start, options);
  }

  /** Runs a command, or the shell, on a terminal of this host. */
  async attach(
    file: string | undefined,
    args: readonly string[],
    input: AttachOptions | undefined,
  ): Promise<number> {
    const { parseAttachOptions } = await import('../config/attach.js');
    const { attach } = await import('./attach.js');
    const options = parseAttachOptions(input);
    const argv = parseCommand(file ?? this.#options.shell, args);
    return attach(this, this.#startOf(argv, options.exec), options);
  }

  #startOf(argv: string[], options: ResolvedExecOptions): Omit<ExecStart, 'execId'> {
    const terminalEnv = options.tty === undefined ? {} : TERMINAL_ENV;
    const merged = { ...terminalEnv, ...this.#options.env, ...options.env };
    const env = Object.entries(withScripts(merged, this.#options.scripts)).map(
      ([key, value]) => `${key}=${value}`,
    );
    checkCommandBytes([...argv, ...env]);
    return {
      args: argv,
      env,
      cwd: options.cwd ?? this.#options.workdir,
      user: options.user ?? this.#options.user,
      // A terminal has its input where its output is.
      stdin: options.stdin !== 'null' && options.tty === undefined,
      rlimits: options.rlimits,
      restricted: this.#options.securityProfile === 'restricted',
    };
  }

  shell<Out extends string | Uint8Array>(
    script: string,
    input: ExecOptions | undefined,
  ): Execution<Out> {
    return this.exec(this.#options.shell, ['-c', script], input);
  }

  /** What the image is for, with other arguments where there are any. */
  execDefault<Out extends string | Uint8Array>(
    args: readonly string[] | undefined,
    input: ExecOptions | undefined,
  ): Execution<Out> {
    const { entrypoint } = this.#options;
    const image = this.image?.config;
    const command = args ?? (entrypoint === undefined ? image?.cmd : undefined) ?? [];
    const [file, ...rest] = [...(entrypoint ?? image?.entrypoint ?? []), ...command];
    if (file !== undefined) return this.exec(file, rest, input);
    throw new ConfigError(
      'ERR_NO_DEFAULT_COMMAND',
      `the sandbox "${this.name}" has no default command: its image has neither an entrypoint nor a ` +
        'command. Use exec(), or create it with an entrypoint',
      { context: { name: this.name } },
    );
  }

  nextExecId(): bigint {
    this.#lastExecId += 1n;
    return this.#lastExecId;
  }

  async open(start: ExecStart, signal: AbortSignal): Promise<ExecChannel> {
    this.#running.set(start.execId, this.lifecycle.begin());
    this.#logs?.system('debug', `command ${start.execId}: ${start.args[0]}`);
    const connection = await this.#machine.connectVsock(AGENT_PORT, { signal });
    if (signal.aborted) connection.destroy();
    return ExecChannel.start(connection, start);
  }

  log(execId: bigint, source: LogSource, data: Uint8Array): Promise<void> | undefined {
    return this.#logs?.write({ source, execId, data });
  }

  logs(options: LogOptions | undefined): Promise<LogEntry[]> {
    return readLogs(this.#logSource, options);
  }

  logStream(options: LogStreamOptions | undefined): AsyncGenerator<LogEntry, void, void> {
    return streamLogs(this.#logSource, options);
  }

  closed(execId: bigint): void {
    this.#running.get(execId)?.();
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

  /** Has the guest bring CPUs on line, take and return memory. */
  async resizeMachine(input: unknown): Promise<ResizeResult> {
    const { cpus, memoryMib, signal } = parseResizeOptions(input, this.#options);
    const end = this.lifecycle.begin();
    const result: ResizeResult = {};
    try {
      if (cpus !== undefined) {
        const resized = this.#machine.resizeVcpus(cpus);
        await abortable(resized, signal, 'resizing the sandbox');
        this.#logs?.system('info', `${cpus} CPUs`);
      }
      if (memoryMib !== undefined && this.#options.maxMemoryMib > this.#options.memoryMib) {
        result.memoryMib = await this.#machine.resizeMemory(memoryMib, { signal });
        this.#logs?.system('info', `${result.memoryMib} MiB of memory`);
      } else if (memoryMib !== undefined) {
        result.memoryMib = memoryMib;
      }
      return result;
    } catch (error) {
      throw await this.explain(error);
    } finally {
      end();
    }
  }

  async explain(error: unknown): Promise<unknown> {
    const lost =
      error instanceof MachineError ||
      (error instanceof RpcError && error.code === 'ERR_RPC_CONNECTION_LOST');
    return lost ? this.lifecycle.explain(error) : error;
  }

  async connect(port: number, signal: AbortSignal | undefined): Promise<Socket> {
    const end = this.lifecycle.begin();
    try {
      const stream = await this.#machine.connectVsock(port, { signal });
      return stream.once('close', end);
    } catch (error) {
      end();
      throw error;
    }
  }

  listen(port: number, onConnection: (stream: Socket) => void): VsockListener {
    this.lifecycle.requireRunning();
    return this.#machine.listenVsock(port, onConnection);
  }

  async metrics(input: MetricsOptions | undefined): Promise<Metrics> {
    return this.#sample(parseMetricsOptions(input), undefined);
  }

  metricsStream(input: MetricsStreamOptions | undefined): AsyncGenerator<Metrics, void, void> {
    const options = parseMetricsStreamOptions(input);
    return metricsStream((since) => this.#sample(options, since), this.lifecycle.ended, options);
  }

  async #callFiles(
    method: string,
    request: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array> {
    const end = this.lifecycle.begin();
    try {
      return await this.#agent.files(method, request, { signal });
    } finally {
      end();
    }
  }

  async #sample(
    { guest, resident }: ResolvedMetricsOptions,
    since: Metrics | undefined,
  ): Promise<Metrics> {
    if (!this.lifecycle.isUp) this.lifecycle.requireRunning();
    return sampleMetrics(
      {
        startedAtNs: this.#startedAtNs,
        limitBytes: this.#options.memoryMib * MIB,
        stats: () => this.#machine.stats(),
        residentBytes: async () => (resident ? this.#machine.residentBytes() : null),
        guestMemory: async (timeoutMs) =>
          // One that is paused would not answer.
          guest && this.status !== 'paused' ? this.#agent.getMemory({ timeoutMs }) : null,
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
}
