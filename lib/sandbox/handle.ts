/** What is known of a sandbox without being the one that runs it. */
import { join } from 'node:path';
import type { LogOptions, LogStreamOptions } from '../config/logs.js';
import type { StopOptions } from '../config/machine.js';
import type { MetricsOptions } from '../config/metrics.js';
import {
  type ListOptions,
  parseListOptions,
  parseSandboxName,
  type SandboxOptions,
  type StartOptions,
} from '../config/sandbox.js';
import type { SaveOptions } from '../config/snapshot.js';
import { ConfigError, SandboxError } from '../errors.js';
import { abortable } from '../machine/wait.js';
import type { LogEntry } from '../state/logs/entry.js';
import { type Observation, observe, observeAll } from '../state/observe.js';
import { fromResultRecord } from '../state/records.js';
import { notFound } from '../state/sandbox-dir.js';
import { isOver } from '../state/types.js';
import type { SandboxCore } from './core.js';
import { type LogSourceOf, readLogs, streamLogs } from './logs.js';
import { allRunningHere, notOwner, runningHere, sandboxPath } from './registry.js';
import type { Sandbox } from './sandbox.js';
import type { Snapshot } from './snapshot.js';
import type { Metrics, SandboxStatus, StopResult } from './types.js';

/** How often the end of a sandbox in another process is looked for. */
const POLL_MS = 200;

/** Makes the object that users get of a sandbox that runs here. */
export type Wrap = (core: SandboxCore, ownsLifecycle: boolean) => Sandbox;

/**
 * A sandbox by its name: what is on record of it, and the calls that do not need it to run.
 * What it tells is as of its making or of the last `refresh()`.
 *
 * Calls on a running sandbox work in the process that runs it; elsewhere they fail with
 * `ERR_SANDBOX_NOT_OWNER`.
 */
export class SandboxHandle {
  readonly #wrap: Wrap;
  #seen: Observation;
  #status: SandboxStatus;

  private constructor(wrap: Wrap, seen: Observation, status: SandboxStatus) {
    this.#wrap = wrap;
    this.#seen = seen;
    this.#status = status;
  }

  static async get(nameInput: unknown, wrap: Wrap): Promise<SandboxHandle> {
    const name = parseSandboxName(nameInput);
    const seen = await observe(name);
    if (seen === undefined) throw notFound(name);
    return SandboxHandle.#of(seen, wrap);
  }

  /** Newest first. */
  static async list(
    input: ListOptions | undefined,
    wrap: Wrap,
  ): Promise<{ sandboxes: SandboxHandle[]; nextCursor?: string }> {
    const { labels, limit, cursor } = parseListOptions(input);
    const wanted = Object.entries(labels);
    const after = cursor === undefined ? undefined : parseCursor(cursor);
    const all = (await observeAll())
      .filter(({ config }) => wanted.every(([key, value]) => config.labels[key] === value))
      .sort((a, b) => compare(placeOf(a), placeOf(b)))
      .filter((seen) => after === undefined || compare(after, placeOf(seen)) < 0);
    const page = all.slice(0, limit);
    const sandboxes = await Promise.all(page.map((seen) => SandboxHandle.#of(seen, wrap)));
    const last = page.at(-1);
    if (last === undefined || all.length <= limit) return { sandboxes };
    return { sandboxes, nextCursor: formatCursor(placeOf(last)) };
  }

  static async #of(seen: Observation, wrap: Wrap): Promise<SandboxHandle> {
    return new SandboxHandle(wrap, seen, await statusOf(seen));
  }

  get name(): string {
    return this.#seen.config.name;
  }

  /** Tells it from a later sandbox of its name. */
  get id(): string {
    return this.#seen.config.id;
  }

  get status(): SandboxStatus {
    return this.#status;
  }

  get labels(): Readonly<Record<string, string>> {
    return this.#seen.config.labels;
  }

  get ephemeral(): boolean {
    return this.#seen.config.ephemeral;
  }

  /** The options that it was created with. */
  get config(): Readonly<SandboxOptions> {
    return { ...this.#seen.config.options, name: this.name, ephemeral: this.ephemeral };
  }

  get createdAt(): Date {
    return new Date(this.#seen.config.createdAt);
  }

  /** When its status changed last. */
  get updatedAt(): Date {
    return new Date(this.#seen.state.updatedAt);
  }

  /** How it ended; `undefined` while it has not. */
  get stopResult(): StopResult | undefined {
    const { result } = this.#seen.state;
    return result === null ? undefined : fromResultRecord(this.name, result);
  }

  /** Looks again. `ERR_SANDBOX_NOT_FOUND` when it was removed, also where another has its name now. */
  async refresh(): Promise<this> {
    const seen = await observe(this.name);
    if (seen === undefined || seen.config.id !== this.id) throw notFound(this.name);
    this.#seen = seen;
    this.#status = await statusOf(seen);
    return this;
  }

  /** Boots a sandbox that has ended, with its disk. */
  async start(options?: StartOptions): Promise<Sandbox> {
    const { startSandbox } = await import('./create.js');
    return this.#wrap(await startSandbox(this.name, options), true);
  }

  /** The sandbox that runs in this process. It does not end with the object that is returned. */
  async connect(): Promise<Sandbox> {
    return this.#wrap(await this.#running('connect to'), false);
  }

  /** Removes a sandbox that has ended, with its disk and its logs. */
  async remove(): Promise<void> {
    const { removeSandbox } = await import('./create.js');
    await removeSandbox(this.name);
  }

  /** As of the sandbox. One that has ended stays as it is. */
  async stop(options?: StopOptions): Promise<StopResult> {
    return this.#end('stop', (core) => core.lifecycle.stop(options));
  }

  async kill(options?: StopOptions): Promise<StopResult> {
    return this.#end('kill', (core) => core.lifecycle.kill(options));
  }

  async requestStop(): Promise<void> {
    (await this.#running('stop')).lifecycle.requestStop();
  }

  async requestKill(): Promise<void> {
    (await this.#running('kill')).lifecycle.requestKill();
  }

  async requestDrain(): Promise<void> {
    (await this.#running('drain')).lifecycle.requestDrain();
  }

  async pause(): Promise<void> {
    await (await this.#running('pause')).lifecycle.pause();
  }

  async resume(): Promise<void> {
    await (await this.#running('resume')).lifecycle.resume();
  }

  /** Saves it as `Sandbox.snapshot` where it runs here; of one that has ended, the disk. */
  async snapshot(name: string, options?: SaveOptions): Promise<Snapshot> {
    const { parseSaveOptions } = await import('../config/snapshot.js');
    const { Snapshot } = await import('./snapshot.js');
    const parsed = parseSaveOptions(name, options);
    const core = await this.#here();
    if (core !== undefined) return new Snapshot(await core.saving.snapshot(parsed));
    await this.refresh();
    if (!isOver(this.#status)) throw this.#elsewhere('take a snapshot of');
    const { saveDisk } = await import('./disk-snapshot.js');
    return new Snapshot(await saveDisk(this.name, parsed));
  }

  async metrics(options?: MetricsOptions): Promise<Metrics> {
    return (await this.#running('measure')).metrics(options);
  }

  /** What its commands wrote, whether it runs or not; see `Sandbox.logs`. */
  async logs(options?: LogOptions): Promise<LogEntry[]> {
    const core = await this.#here();
    return core === undefined ? readLogs(this.#logSource(), options) : core.logs(options);
  }

  /** As `Sandbox.logStream`. */
  logStream(options?: LogStreamOptions): AsyncGenerator<LogEntry, void, void> {
    return streamLogs(this.#logSource(), options);
  }

  /** Resolves when it has ended, in whichever process it runs. */
  async waitUntilStopped(options: { signal?: AbortSignal | undefined } = {}): Promise<StopResult> {
    const core = await this.#here();
    if (core !== undefined) return core.lifecycle.waitUntilStopped(options.signal);
    for (;;) {
      await this.refresh();
      if (isOver(this.#status) && this.stopResult !== undefined) return this.stopResult;
      const pause = new Promise<void>((resolve) => setTimeout(resolve, POLL_MS));
      await abortable(pause, options.signal, `waiting for "${this.name}"`);
    }
  }

  async #end(what: string, end: (core: SandboxCore) => Promise<StopResult>): Promise<StopResult> {
    const core = await this.#here();
    if (core !== undefined) return end(core);
    await this.refresh();
    if (isOver(this.#status) && this.stopResult !== undefined) return this.stopResult;
    throw this.#elsewhere(what);
  }

  async #running(what: string): Promise<SandboxCore> {
    const core = await this.#here();
    if (core !== undefined) return core;
    await this.refresh();
    throw this.#elsewhere(what);
  }

  #logSource(): LogSourceOf {
    return {
      log: { id: this.id, directory: join(sandboxPath(this.name), 'logs') },
      writer: undefined,
      isOver: async () => {
        const seen = await observe(this.name);
        return seen === undefined || seen.config.id !== this.id || !seen.held;
      },
    };
  }

  /** It, and not a later one of its name. */
  async #here(): Promise<SandboxCore | undefined> {
    const core = await runningHere(this.name);
    return core?.id === this.id ? core : undefined;
  }

  #elsewhere(what: string): SandboxError {
    if (this.#status !== 'starting' && !isOver(this.#status)) {
      return notOwner(this.name, this.#seen.state.pid, what);
    }
    return new SandboxError(
      'ERR_SANDBOX_NOT_RUNNING',
      `cannot ${what} the sandbox "${this.name}": it is ${this.#status}`,
      { context: { name: this.name, status: this.#status } },
    );
  }
}

/** Those that run in this thread, by name. */
export async function allMetrics(
  options: MetricsOptions | undefined,
): Promise<Record<string, Metrics>> {
  const cores = allRunningHere().filter(
    ({ status }) => status === 'running' || status === 'draining',
  );
  const entries = await Promise.all(
    // One that ends meanwhile has none.
    cores.map((core) =>
      core.metrics(options).then(
        (metrics) => [[core.name, metrics]],
        () => [],
      ),
    ),
  );
  return Object.fromEntries(entries.flat());
}

/** Whoever runs it knows better than the disk. */
async function statusOf({ config, state }: Observation): Promise<SandboxStatus> {
  const core = await runningHere(config.name);
  return core?.id === config.id ? core.status : state.status;
}

/** Where a sandbox is in the order of a list. */
interface Place {
  createdAt: number;
  id: string;
}

function placeOf({ config }: Observation): Place {
  return { createdAt: config.createdAt, id: config.id };
}

function compare(a: Place, b: Place): number {
  if (a.createdAt !== b.createdAt) return b.createdAt - a.createdAt;
  return a.id < b.id ? -1 : Number(a.id > b.id);
}

function formatCursor({ createdAt, id }: Place): string {
  return Buffer.from(JSON.stringify([createdAt, id])).toString('base64url');
}

function parseCursor(cursor: string): Place {
  try {
    const place: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    const [createdAt, id] = place as [unknown, unknown];
    if (typeof createdAt === 'number' && typeof id === 'string') return { createdAt, id };
  } catch {
    // It is refused below.
  }
  throw new ConfigError(
    'ERR_INVALID_CONFIG',
    'invalid list options: cursor is not the nextCursor of a page',
    { context: { option: 'cursor' } },
  );
}
