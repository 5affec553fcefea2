/** From options and a place on disk to a sandbox whose agent answers; or to nothing, with the reason. */
import type { ResolvedSandboxOptions } from '../config/sandbox.js';
import { ExecError } from '../errors.js';
import type { Machine } from '../machine/machine.js';
import { AGENT_PORT } from '../rpc/agent-client.js';
import type { LogWriter } from '../state/logs/writer.js';
import { hostnameFor } from '../state/names.js';
import type { SandboxDir } from '../state/sandbox-dir.js';
import type { StateWriter } from '../state/state-writer.js';
import type { BootClock } from './boot-clock.js';
import { BootWatch } from './boot-watch.js';
import { SandboxCore } from './core.js';
import { SandboxFiles } from './files.js';
import type { BootContext, BootedGuest, GuestSource } from './guest-source.js';
import { INIT_EXEC_ID, type InitProcess, startInit } from './init.js';
import { installScripts } from './scripts.js';
import type { BootReport } from './types.js';

const NS_PER_MS = 1e6;

/** Where a sandbox is kept and how that is told. */
export interface BootPlace {
  id: string;
  name: string;
  directory: SandboxDir;
  state: StateWriter;
  /** Of its writable layer. */
  diskPath: string;
  /** `undefined`: nothing is logged. */
  logs: LogWriter | undefined;
}

/** A guest whose end is being watched for. */
interface WatchedGuest extends BootedGuest {
  watch: BootWatch;
  kind: GuestSource['kind'];
}

/** One creation or start, and what of it must be taken down again. */
export class Boot {
  readonly #options: ResolvedSandboxOptions;
  readonly #clock: BootClock;
  readonly #place: BootPlace;
  #machine: Machine | undefined;
  #watch: BootWatch | undefined;

  constructor(options: ResolvedSandboxOptions, clock: BootClock, place: BootPlace) {
    this.#options = options;
    this.#clock = clock;
    this.#place = place;
  }

  /**
   * The first of the sources that succeeds gives the guest. `recorded` has to come true before the
   * sandbox exists for anybody; `onReleased` is called when it has ended and nothing of it is held
   * any more.
   */
  async run(
    sources: readonly GuestSource[],
    recorded: Promise<void>,
    onReleased: () => void,
  ): Promise<SandboxCore> {
    const guest = await this.#firstOf(sources);
    const { machine, agent, watch } = guest;
    await watch.during(this.#installScripts(guest));
    const init = await this.#startInit(guest);
    await recorded;
    this.#clock.end();
    watch[Symbol.dispose]();
    return new SandboxCore({
      ...this.#place,
      options: this.#options,
      machine,
      agent,
      init,
      bootReport: this.#report(guest),
      onReleased,
    });
  }

  /** Takes down what was built; what is on disk is left to whoever placed it there. */
  async undo(): Promise<void> {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
    // The agent's connection ends with it.
    await this.#machine?.close();
    this.#machine = undefined;
  }

  async #firstOf(sources: readonly GuestSource[]): Promise<WatchedGuest> {
    const context = this.#context();
    const [source, ...others] = sources;
    if (source === undefined) throw new Error('a boot needs a source');
    try {
      const guest = await source.start(context);
      const watch = this.#watch ?? context.watch(guest.machine);
      return { ...guest, watch, kind: source.kind };
    } catch (error) {
      await this.undo();
      if (others.length === 0 || !(await source.giveWay(context, error))) throw error;
      return this.#firstOf(others);
    }
  }

  #context(): BootContext {
    const { name, diskPath, logs } = this.#place;
    return {
      options: this.#options,
      clock: this.#clock,
      name,
      hostname: this.#options.hostname ?? hostnameFor(name),
      diskPath,
      durable: !this.#options.ephemeral,
      watch: (machine, limitMs = Number.POSITIVE_INFINITY) => {
        const { bootTimeoutMs, signal } = this.#options;
        const limits = { bootTimeoutMs: Math.min(bootTimeoutMs, limitMs), signal };
        this.#machine = machine;
        this.#watch = new BootWatch(name, this.#clock, machine, limits);
        return this.#watch;
      },
      warn: (message) => logs?.system('warn', message),
    };
  }

  /** Part of the root's set-up: a full disk is a failure of that stage. */
  async #installScripts({ machine, agent, watch }: WatchedGuest): Promise<void> {
    const { scripts } = this.#options;
    if (Object.keys(scripts).length === 0) return;
    const files = new SandboxFiles({
      call: (method, request, signal) => agent.files(method, request, { signal }),
      connect: (signal) => machine.connectVsock(AGENT_PORT, { signal }),
      explain: async (error) => error,
    });
    try {
      await installScripts(files, scripts);
    } catch (cause) {
      throw watch.failure(`its scripts were not written: ${(cause as Error).message}`, { cause });
    }
  }

  async #startInit({ machine, watch }: WatchedGuest): Promise<InitProcess | undefined> {
    const { init, env, securityProfile } = this.#options;
    if (init === undefined) return undefined;
    this.#clock.begin('init');
    const restricted = securityProfile === 'restricted';
    const { logs } = this.#place;
    const onOutput = (source: 'stdout' | 'stderr', data: Uint8Array): Promise<void> | undefined =>
      logs?.write({ source, execId: INIT_EXEC_ID, data });
    try {
      return await watch.during(startInit(machine, init, { env, restricted, onOutput }));
    } catch (cause) {
      if (!(cause instanceof ExecError)) throw cause;
      throw watch.failure(`its init did not start: ${cause.message}`, { cause });
    }
  }

  #report({ machine, facts, kind }: WatchedGuest): BootReport {
    return {
      start: kind,
      stages: this.#clock.stages,
      totalMs: this.#clock.totalMs,
      machineSetupMs: machine.stats().setupNs / NS_PER_MS,
      guest: facts,
    };
  }
}
