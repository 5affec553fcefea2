/** The sandbox as its users see it. What it takes is loaded when one is created. */
import type { Socket } from 'node:net';
import type { ExecOptions } from '../config/exec.js';
import type { StopOptions } from '../config/machine.js';
import type { MetricsOptions, MetricsStreamOptions } from '../config/metrics.js';
import type { SandboxOptions } from '../config/sandbox.js';
import type { VsockListener } from '../machine/types.js';
import type { SandboxCore } from './core.js';
import type { BootReport, Execution, Metrics, SandboxStatus, StopResult } from './types.js';

/** What a creation takes, one after the other: in one go it would hold up the event loop. */
async function loadInSteps(): Promise<void> {
  await import('../config/zod.js');
  await import('../config/common.js');
  await import('../config/machine.js');
  await import('../config/sandbox.js');
  await import('../config/exec.js');
  await import('../rpc/protobuf.js');
  await import('../rpc/agent-client.js');
  await import('../rpc/exec-channel.js');
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

  private constructor(core: SandboxCore) {
    this.#core = core;
  }

  /**
   * Boots a guest and waits until commands can run in it. Everything about it is
   * gone when it ends: stop, kill or close it, or dispose of it.
   */
  static async create(options: SandboxOptions = {}): Promise<Sandbox> {
    await loadInSteps();
    const { createSandbox } = await import('./create.js');
    return new Sandbox(await createSandbox(options));
  }

  get name(): string {
    return this.#core.name;
  }

  /** Unique for this boot. */
  get id(): string {
    return this.#core.id;
  }

  get status(): SandboxStatus {
    return this.#core.status;
  }

  /** The sandbox ends with this object and this process. */
  get ownsLifecycle(): boolean {
    return true;
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

  /** Ends the guest's processes and powers it off; kills it after `timeoutMs`. */
  stop(options?: StopOptions): Promise<StopResult> {
    return this.#core.stop(options);
  }

  /** Ends the machine at once. */
  kill(options?: StopOptions): Promise<StopResult> {
    return this.#core.kill(options);
  }

  waitUntilStopped(options: { signal?: AbortSignal | undefined } = {}): Promise<StopResult> {
    return this.#core.waitUntilStopped(options.signal);
  }

  /** Kills what still runs and frees everything. Idempotent. */
  close(): Promise<void> {
    return this.#core.close();
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
