/** The sandbox as its users see it. What it takes is loaded when one is created. */
import type { Socket } from 'node:net';
import type { AttachOptions } from '../config/attach.js';
import type { ExecOptions } from '../config/exec.js';
import type { LogOptions, LogStreamOptions } from '../config/logs.js';
import type { StopOptions } from '../config/machine.js';
import type { MetricsOptions, MetricsStreamOptions } from '../config/metrics.js';
import type { ResizeOptions } from '../config/resize.js';
import type { ListOptions, SandboxOptions, StartOptions } from '../config/sandbox.js';
import type { ForkOptions, SaveOptions } from '../config/snapshot.js';
import { ConfigError } from '../errors.js';
import type { VsockListener } from '../machine/types.js';
import type { LogEntry } from '../state/logs/entry.js';
import type { SandboxCore } from './core.js';
import type { SandboxFiles } from './files.js';
import type { SandboxHandle } from './handle.js';
import type { Snapshot } from './snapshot.js';
import type {
  BootReport,
  Execution,
  Metrics,
  ResizeResult,
  SandboxImage,
  SandboxStatus,
  StopResult,
} from './types.js';

/** What a creation takes, one after the other: in one go it would hold up the event loop. */
async function loadInSteps(): Promise<void> {
  await import('../config/zod.js');
  await import('../config/common.js');
  await import('../config/shared-dirs.js');
  await import('../config/machine.js');
  await import('../config/registry.js');
  await import('../config/sandbox.js');
  await import('../config/exec.js');
  await import('../rpc/protobuf.js');
  await import('../rpc/agent-client.js');
  await import('../rpc/exec-channel.js');
  await import('../config/files.js');
  await import('../rpc/files-client.js');
  await import('../state/observe.js');
  await import('../state/snapshots/store.js');
  await import('../machine/machine.js');
  await import('./vm/boot-watch.js');
  await import('./vm/cold-start.js');
  await import('./vm/factories.js');
  await import('./saving.js');
  await import('./files.js');
  await import('./execution.js');
  await import('./core.js');
  await import('./boot.js');
}

type BufferOptions = ExecOptions & { encoding: 'buffer' };

/**
 * A Linux guest in this process in which commands run.
 *
 * @example
 * await using sandbox = await Sandbox.create();
 * const { stdout } = await sandbox.exec('uname', ['-a']);
 */
export class Sandbox implements AsyncDisposable {
  readonly #core: SandboxCore;
  readonly #ownsLifecycle: boolean;

  private constructor(core: SandboxCore, ownsLifecycle: boolean) {
    this.#core = core;
    this.#ownsLifecycle = ownsLifecycle;
  }

  /**
   * Boots a guest and waits until commands can run in it. With a `name` its disk and its logs are
   * kept when it ends; without one, or with `ephemeral`, nothing is.
   */
  static async create(options: SandboxOptions = {}): Promise<Sandbox> {
    await loadInSteps();
    const { createSandbox } = await import('./create.js');
    return new Sandbox(await createSandbox(options), true);
  }

  /** Boots a sandbox that has ended, with the options and the disk that it had. */
  static async start(name: string, options?: StartOptions): Promise<Sandbox> {
    await loadInSteps();
    const { startSandbox } = await import('./create.js');
    return new Sandbox(await startSandbox(name, options), true);
  }

  /** What is known of a sandbox, whether it runs or not: `ERR_SANDBOX_NOT_FOUND` when nothing. */
  static async get(name: string): Promise<SandboxHandle> {
    await loadInSteps();
    const { SandboxHandle } = await import('./handle.js');
    return SandboxHandle.get(name, Sandbox.#wrap);
  }

  /** Sandboxes of this `EMBERVM_HOME`, newest first, a page at a time. */
  static async list(
    options?: ListOptions,
  ): Promise<{ sandboxes: SandboxHandle[]; nextCursor?: string }> {
    await loadInSteps();
    const { SandboxHandle } = await import('./handle.js');
    return SandboxHandle.list(options, Sandbox.#wrap);
  }

  /** Removes a sandbox that has ended, with its disk and its logs. */
  static async remove(name: string): Promise<void> {
    await loadInSteps();
    const { removeSandbox } = await import('./create.js');
    await removeSandbox(name);
  }

  /** Metrics of the sandboxes that run in this process, by name. */
  static async allMetrics(options?: MetricsOptions): Promise<Record<string, Metrics>> {
    const { allMetrics } = await import('./handle.js');
    return allMetrics(options);
  }

  static #wrap(core: SandboxCore, ownsLifecycle: boolean): Sandbox {
    return new Sandbox(core, ownsLifecycle);
  }

  get name(): string {
    return this.#core.name;
  }

  /** Tells it from a later sandbox of its name. */
  get id(): string {
    return this.#core.id;
  }

  get status(): SandboxStatus {
    return this.#core.status;
  }

  /** The sandbox ends when this object is closed or disposed of. */
  get ownsLifecycle(): boolean {
    return this.#ownsLifecycle;
  }

  /** Runs a program. Arguments are passed as they are; no shell sees them. */
  exec(
    file: string,
    args: readonly string[] | undefined,
    options: BufferOptions,
  ): Execution<Uint8Array>;
  exec(file: string, args?: readonly string[], options?: ExecOptions): Execution;
  exec(
    file: string,
    args: readonly string[] = [],
    options?: ExecOptions,
  ): Execution | Execution<Uint8Array> {
    return this.#core.exec<string>(file, args, options);
  }

  /** Runs a script with the sandbox's shell. */
  shell(script: string, options: BufferOptions): Execution<Uint8Array>;
  shell(script: string, options?: ExecOptions): Execution;
  shell(script: string, options?: ExecOptions): Execution | Execution<Uint8Array> {
    return this.#core.shell<string>(script, options);
  }

  /**
   * Runs what the image is for: its entrypoint with `args`, which stand in for its command. With the
   * sandbox's own `entrypoint`, that. `ERR_NO_DEFAULT_COMMAND` where there is none.
   */
  execDefault(args: readonly string[] | undefined, options: BufferOptions): Execution<Uint8Array>;
  execDefault(args?: readonly string[], options?: ExecOptions): Execution;
  execDefault(args?: readonly string[], options?: ExecOptions): Execution | Execution<Uint8Array> {
    return this.#core.execDefault<string>(args, options);
  }

  /** The image that it was created from; `undefined` for the built-in base, or a disk. */
  get image(): SandboxImage | undefined {
    const pin = this.#core.image;
    if (pin === undefined) return undefined;
    const { reference, digest, config } = pin;
    return { reference, digest, ...config };
  }

  /** Files of the guest. */
  get files(): SandboxFiles {
    return this.#core.files;
  }

  /**
   * Runs a program, by default the shell, on the terminal of this process, until it ends or the
   * detach keys are typed. Resolves to its exit code, 128 and the number of the signal that ended
   * it, or 0 when it was detached.
   */
  attach(file?: string, args: readonly string[] = [], options?: AttachOptions): Promise<number> {
    return this.#core.attach(file, args, options);
  }

  /** Runs the sandbox's shell on the terminal of this process. */
  attachShell(options?: AttachOptions): Promise<number> {
    return this.attach(undefined, [], options);
  }

  /** Connects to a vsock port on which a program in the guest listens. */
  connect(port: number, options: { signal?: AbortSignal | undefined } = {}): Promise<Socket> {
    return this.#core.connect(port, options.signal);
  }

  /** Accepts the guest's connections to a vsock port of the host. */
  async listen(port: number, onConnection: (stream: Socket) => void): Promise<VsockListener> {
    return this.#core.listen(port, onConnection);
  }

  /** Where the time of the boot went. */
  bootReport(): BootReport {
    return this.#core.bootReport;
  }

  /** One sample of what the sandbox uses. */
  metrics(options?: MetricsOptions): Promise<Metrics> {
    return this.#core.metrics(options);
  }

  /** A sample now and after each interval, until the sandbox ends. */
  metricsStream(options?: MetricsStreamOptions): AsyncGenerator<Metrics, void, void> {
    return this.#core.metricsStream(options);
  }

  /** What its commands wrote, and, for the source `system`, what happened to it. */
  logs(options?: LogOptions): Promise<LogEntry[]> {
    return this.#core.logs(options);
  }

  /** The same one by one, and with `follow` what comes until the sandbox has ended. */
  logStream(options?: LogStreamOptions): AsyncGenerator<LogEntry, void, void> {
    return this.#core.logStream(options);
  }

  /** Stops the virtual CPUs where they are. Time limits go on. */
  pause(): Promise<void> {
    return this.#core.lifecycle.pause();
  }

  resume(): Promise<void> {
    return this.#core.lifecycle.resume();
  }

  /**
   * Brings virtual CPUs on line, or takes them off, until `cpus` are on, of at most the `maxCpus` that
   * it was created with; has the guest take or return memory until it has `memoryMib`, from that of its
   * creation to its `maxMemoryMib`. Holds until the sandbox ends. Resolves when the guest has come as
   * far as it could: it keeps memory that it uses for what cannot be moved.
   */
  resize(options: ResizeOptions): Promise<ResizeResult> {
    return this.#core.resizeMachine(options);
  }

  /**
   * Saves its memory and its disk under `name`, as they are at one instant, for which it stands
   * still: `Sandbox.create({ snapshot: name })` goes on from there.
   */
  async snapshot(name: string, options?: SaveOptions): Promise<Snapshot> {
    const { parseSaveOptions } = await import('../config/snapshot.js');
    const { Snapshot } = await import('./snapshot.js');
    return new Snapshot(await this.#core.saving.snapshot(parseSaveOptions(name, options)));
  }

  /**
   * A copy that runs, in this process, also of one that is paused. Both go on from the same instant
   * and share the memory that neither writes. Commands that run in the one are killed in the other.
   */
  async fork(options?: ForkOptions): Promise<Sandbox> {
    const { forkSandbox } = await import('./create.js');
    return new Sandbox(await forkSandbox(this.#core, options), true);
  }

  /** Ends the guest's processes and powers it off; kills it after `timeoutMs`. */
  stop(options?: StopOptions): Promise<StopResult> {
    return this.#core.lifecycle.stop(options);
  }

  /** Ends the machine at once. What the guest has not written to its disk is lost. */
  kill(options?: StopOptions): Promise<StopResult> {
    return this.#core.lifecycle.kill(options);
  }

  /** As {@link stop}, without waiting for the end. */
  async requestStop(): Promise<void> {
    this.#core.lifecycle.requestStop();
  }

  /** As {@link kill}, without waiting for the end. */
  async requestKill(): Promise<void> {
    this.#core.lifecycle.requestKill();
  }

  /** Takes nothing new from now on, and stops when what runs has ended. Does not wait for it. */
  async requestDrain(): Promise<void> {
    this.#core.lifecycle.requestDrain();
  }

  waitUntilStopped(options: { signal?: AbortSignal | undefined } = {}): Promise<StopResult> {
    return this.#core.lifecycle.waitUntilStopped(options.signal);
  }

  /** Not built: `ERR_UNSUPPORTED`. A sandbox ends with the process that runs it. */
  async detach(): Promise<never> {
    throw new ConfigError(
      'ERR_UNSUPPORTED',
      'detach() is not supported by this version: a sandbox ends with its process',
      { context: { option: 'detached' } },
    );
  }

  /**
   * Ends a sandbox that this object owns and frees everything: by `kill` when it is ephemeral, else
   * by `stop`, so that its disk has what was written. Idempotent.
   */
  async close(): Promise<void> {
    if (this.#ownsLifecycle) await this.#core.lifecycle.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Keeps the process alive while the sandbox runs (the default). */
  ref(): this {
    this.#core.ref();
    return this;
  }

  /** Lets the process end, and the sandbox with it. */
  unref(): this {
    this.#core.unref();
    return this;
  }
}
