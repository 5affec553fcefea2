/** From options and a place on disk to a sandbox whose agent answers; or to nothing, with the reason. */
import type { ResolvedSandboxOptions } from '../config/sandbox.js';
import { ConfigError, ExecError } from '../errors.js';
import { AGENT_PORT } from '../rpc/agent-client.js';
import type { ImagePin } from '../state/image-pin.js';
import type { LogWriter } from '../state/logs/writer.js';
import { hostnameFor } from '../state/names.js';
import type { SandboxDir } from '../state/sandbox-dir.js';
import type { StateWriter } from '../state/state-writer.js';
import { SandboxCore } from './core.js';
import { SandboxFiles } from './files.js';
import { INIT_EXEC_ID, type InitProcess, startInit, takeUpInit } from './init.js';
import type { SandboxMounts } from './mounts.js';
import { installScripts } from './scripts.js';
import type { BootReport } from './types.js';
import type { BootAssets } from './vm/boot-assets.js';
import type { BootClock } from './vm/boot-clock.js';
import type { BootWatch } from './vm/boot-watch.js';
import type { Vm, VmFactory } from './vm/vm-factory.js';
import { VmRequest } from './vm/vm-request.js';

const NS_PER_MS = 1e6;

/** Where a sandbox is kept and how that is told. */
export interface BootPlace {
  id: string;
  name: string;
  directory: SandboxDir;
  state: StateWriter;
  /** Of its writable layer. */
  diskPath: string;
  /** `undefined`: it has none. */
  image: ImagePin | undefined;
  /** `undefined`: nothing is logged. */
  logs: LogWriter | undefined;
  /** `undefined`: it has none. */
  mounts?: SandboxMounts | undefined;
  /** CPUs to have on line; `undefined`: those that are. */
  cpus?: number | undefined;
  /** Paths at which its memory has one already. */
  mounted?: ReadonlySet<string> | undefined;
  /** Its memory has an init that runs. */
  hasInit?: boolean | undefined;
}

interface WatchedVm extends Vm {
  watch: BootWatch;
}

/** One creation or start, and what of it must be taken down again. */
export class Boot {
  readonly #options: ResolvedSandboxOptions;
  readonly #clock: BootClock;
  readonly #place: BootPlace;
  readonly #request: VmRequest;

  constructor(
    options: ResolvedSandboxOptions,
    clock: BootClock,
    assets: BootAssets,
    place: BootPlace,
  ) {
    const { name, diskPath, logs } = place;
    this.#options = options;
    this.#clock = clock;
    this.#place = place;
    this.#request = new VmRequest({
      config: options,
      assets,
      name,
      hostname: options.hostname ?? hostnameFor(name),
      diskPath,
      durable: !options.ephemeral,
      clock,
      limits: options,
      warn: (message) => logs?.system('warn', message),
    });
  }

  /**
   * `recorded` has to come true before the sandbox exists for anybody; `onReleased` is called when
   * it has ended and nothing of it is held any more.
   */
  async run(
    factory: VmFactory,
    recorded: Promise<void>,
    onReleased: () => Promise<void>,
  ): Promise<SandboxCore> {
    const vm = await this.#vmOf(factory);
    await this.#bringCpus(vm);
    await vm.watch.during(this.#prepareRoot(vm));
    const init = await this.#startInit(vm);
    await recorded;
    this.#clock.end();
    const { machine, agent } = vm;
    this.#request.detach();
    return new SandboxCore({
      ...this.#place,
      assets: this.#request.assets,
      options: this.#options,
      machine,
      agent,
      init,
      bootReport: this.#report(vm),
      onReleased,
    });
  }

  /** Takes down what was built; what is on disk is left to whoever placed it there. */
  async undo(): Promise<void> {
    await this.#request.discard();
  }

  async #vmOf(factory: VmFactory): Promise<WatchedVm> {
    const vm = await factory.newVm(this.#request);
    if (this.#request.watchOf(vm?.machine) === undefined) {
      throw new ConfigError(
        'ERR_INVALID_CONFIG',
        'vmFactory: newVm() has to return what a built-in factory made of the same request',
      );
    }
    // What limits a start from a template is over: what follows takes as long as it takes.
    return { ...vm, watch: this.#request.attach(vm.machine) };
  }

  async #bringCpus({ agent, watch }: WatchedVm): Promise<void> {
    const { cpus } = this.#place;
    if (cpus === undefined) return;
    this.#clock.begin('cpus');
    await watch.ask('bring its CPUs on line', () => agent.setOnlineCpus(cpus));
  }

  /** Part of the root's set-up: a full disk is a failure of that stage. */
  async #prepareRoot({ machine, agent, watch }: WatchedVm): Promise<void> {
    const { scripts, patches, signal } = this.#options;
    const files = new SandboxFiles({
      call: (method, request, signal) => agent.files(method, request, { signal }),
      connect: (signal) => machine.connectVsock(AGENT_PORT, { signal }),
      explain: async (error) => error,
    });
    if (patches.length > 0) {
      const { applyPatches } = await import('./patches.js');
      await applyPatches(files, patches, signal);
    }
    const { mounts, mounted = new Set() } = this.#place;
    const restricted = this.#options.securityProfile === 'restricted';
    if (mounts !== undefined) {
      this.#clock.begin('mounts');
      await mounts.mount(machine, agent, { restricted, there: mounted });
    }
    try {
      await installScripts(files, scripts);
    } catch (cause) {
      throw watch.failure(`its scripts were not written: ${(cause as Error).message}`, { cause });
    }
  }

  async #startInit({ machine, watch }: WatchedVm): Promise<InitProcess | undefined> {
    const { init, env, securityProfile } = this.#options;
    if (init === undefined) return undefined;
    this.#clock.begin('init');
    const restricted = securityProfile === 'restricted';
    const { logs, hasInit = false } = this.#place;
    const onOutput = (source: 'stdout' | 'stderr', data: Uint8Array): Promise<void> | undefined =>
      logs?.write({ source, execId: INIT_EXEC_ID, data });
    const begun = hasInit
      ? takeUpInit(machine, onOutput)
      : startInit(machine, init, { env, restricted, onOutput });
    try {
      return await watch.during(begun);
    } catch (cause) {
      if (!(cause instanceof ExecError)) throw cause;
      throw watch.failure(`its init did not start: ${cause.message}`, { cause });
    }
  }

  #report({ machine, facts, start }: WatchedVm): BootReport {
    return {
      start,
      stages: this.#clock.stages,
      totalMs: this.#clock.totalMs,
      machineSetupMs: machine.stats().setupNs / NS_PER_MS,
      guest: facts,
    };
  }
}
