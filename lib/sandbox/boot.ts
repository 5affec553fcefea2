/** From options and a disk to a sandbox whose agent answers; or to nothing, with the reason. */
import type { Socket } from 'node:net';
import type { ResolvedSandboxOptions } from '../config/sandbox.js';
import { abortedError, EmbervmError, ExecError, SandboxError } from '../errors.js';
import { Machine } from '../machine/machine.js';
import type { MachineExit } from '../machine/types.js';
import { waitFor } from '../machine/wait.js';
import { findAsset } from '../native/assets.js';
import { AGENT_PORT, AgentClient, type AgentInfo, type GuestMount } from '../rpc/agent-client.js';
import type { LogWriter } from '../state/logs/writer.js';
import { hostnameFor } from '../state/names.js';
import { type SandboxDir, sweepDeadSandboxes } from '../state/sandbox-dir.js';
import type { StateWriter } from '../state/state-writer.js';
import type { UpperDisk } from '../state/upper-disk.js';
import type { BootClock } from './boot-clock.js';
import { guestCommandLine } from './command-line.js';
import { SandboxCore } from './core.js';
import { SandboxFiles } from './files.js';
import { INIT_EXEC_ID, type InitProcess, startInit } from './init.js';
import { installScripts } from './scripts.js';
import { shownTail, stopReason } from './stop-result.js';
import type { BootReport } from './types.js';

const GUEST_CID = 3;
const TAIL_BYTES = 16 * 1024;
/** The end of a machine closes its connections first; the event comes a moment later. */
const EXIT_FOLLOWS_MS = 2_000;
const NS_PER_MS = 1e6;
/** The disks in the order in which the machine gets them. */
const BASE: GuestMount = { source: '/dev/vda', fstype: 'erofs', readOnly: true };
const UPPER: GuestMount = { source: '/dev/vdb', fstype: 'ext4' };

/** The files that a guest is made of. */
export interface BootAssets {
  kernel: string;
  initramfs: string;
  base: string;
}

export async function findBootAssets(options: ResolvedSandboxOptions): Promise<BootAssets> {
  const [kernel, initramfs, base] = await Promise.all([
    options.kernel.path ?? findAsset('kernel'),
    findAsset('initramfs'),
    findAsset('base'),
  ]);
  return { kernel, initramfs, base };
}

/** Where a sandbox is kept and how that is told. */
export interface BootPlace {
  id: string;
  name: string;
  directory: SandboxDir;
  state: StateWriter;
  upper: UpperDisk;
  /** `undefined`: nothing is logged. */
  logs: LogWriter | undefined;
}

/** One attempt, and what of it must be taken down again. */
export class Boot {
  readonly #options: ResolvedSandboxOptions;
  readonly #clock: BootClock;
  readonly #place: BootPlace;
  #machine: Machine | undefined;
  #agent: AgentClient | undefined;

  constructor(options: ResolvedSandboxOptions, clock: BootClock, place: BootPlace) {
    this.#options = options;
    this.#clock = clock;
    this.#place = place;
  }

  /**
   * `recorded` has to come true before the sandbox exists for anybody; `onReleased` is called when
   * it has ended and nothing of it is held any more.
   */
  async run(
    assets: BootAssets,
    recorded: Promise<void>,
    onReleased: () => void,
  ): Promise<SandboxCore> {
    const clock = this.#clock;
    const { upper } = this.#place;
    clock.begin('machine');
    const machine = await this.#createMachine(assets, upper);
    this.#machine = machine;
    const dialled = this.#acceptAgent(machine);
    await machine.start();
    // Left-overs of dead processes are removed while the guest is busy booting.
    sweepDeadSandboxes().catch(() => {});

    clock.begin('kernel');
    const watch = this.#watchBoot(machine);
    try {
      const agent = new AgentClient(await Promise.race([dialled, watch.failed]));
      this.#agent = agent;
      clock.begin('root');
      const info = await Promise.race([this.#setUp(machine, agent, upper), watch.failed]);
      await Promise.race([this.#installScripts(machine, agent), watch.failed]);
      const init = await this.#startInit(machine, watch.failed);
      await recorded;
      clock.end();
      return new SandboxCore({
        ...this.#place,
        options: this.#options,
        machine,
        agent,
        init,
        bootReport: this.#report(machine, info),
        onReleased,
      });
    } finally {
      watch.stop();
    }
  }

  /** Takes down what was built; what is on disk is left to whoever placed it there. */
  async undo(): Promise<void> {
    this.#agent?.close();
    await this.#machine?.close();
  }

  #createMachine(assets: BootAssets, upper: UpperDisk): Promise<Machine> {
    const { cpus, memoryMib, signal } = this.#options;
    return Machine.create(
      {
        kernel: {
          path: assets.kernel,
          initrd: assets.initramfs,
          args: [...guestCommandLine, ...this.#options.kernel.args],
        },
        vcpus: cpus,
        memoryMib,
        drives: [
          { id: 'base', path: assets.base, readOnly: true },
          { id: 'upper', path: upper.path },
        ],
        vsock: { cid: GUEST_CID },
      },
      { signal },
    );
  }

  /** The first to dial is the agent: nothing else runs in the guest yet. */
  #acceptAgent(machine: Machine): Promise<Socket> {
    return new Promise((resolve) => {
      const listener = machine.listenVsock(AGENT_PORT, (stream) => {
        // The machine keeps the process alive, for as long as it is to.
        resolve(stream.unref());
        listener.close().catch(() => {});
      });
    });
  }

  async #setUp(machine: Machine, agent: AgentClient, upper: UpperDisk): Promise<AgentInfo> {
    const hostname = this.#options.hostname ?? hostnameFor(this.#place.name);
    const restricted = this.#options.securityProfile === 'restricted';
    try {
      // Sent together: a round trip through an emulated guest is not free.
      const [info] = await Promise.all([
        agent.getInfo(),
        agent.setUpRoot({ lower: BASE, upper: UPPER, growUpper: upper.grow, hostname, restricted }),
      ]);
      return info;
    } catch (cause) {
      // Where the guest died of it, its own end says more, and wins the race.
      const exited = machine.waitUntilStopped();
      await waitFor(exited, { what: 'the guest', timeoutMs: EXIT_FOLLOWS_MS });
      throw this.#failed(`the agent could not set up the root: ${(cause as Error).message}`, {
        cause,
      });
    }
  }

  /** Part of the root's set-up: a full disk is a failure of that stage. */
  async #installScripts(machine: Machine, agent: AgentClient): Promise<void> {
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
      throw this.#failed(`its scripts were not written: ${(cause as Error).message}`, { cause });
    }
  }

  async #startInit(machine: Machine, failed: Promise<never>): Promise<InitProcess | undefined> {
    const { init, env, securityProfile } = this.#options;
    if (init === undefined) return undefined;
    this.#clock.begin('init');
    const restricted = securityProfile === 'restricted';
    const { logs } = this.#place;
    const onOutput = (source: 'stdout' | 'stderr', data: Uint8Array): Promise<void> | undefined =>
      logs?.write({ source, execId: INIT_EXEC_ID, data });
    try {
      const starting = startInit(machine, init, { env, restricted, onOutput });
      return await Promise.race([starting, failed]);
    } catch (cause) {
      if (!(cause instanceof ExecError)) throw cause;
      throw this.#failed(`its init did not start: ${cause.message}`, { cause });
    }
  }

  /** Whatever ends the wait for a guest early. */
  #watchBoot(machine: Machine): { failed: Promise<never>; stop: () => void } {
    const { bootTimeoutMs, signal } = this.#options;
    let stop = (): void => {};
    const failed = new Promise<never>((_, reject) => {
      const onExit = (exit: MachineExit): void => {
        const reason = stopReason(exit, undefined);
        reject(this.#failed(`the guest ended (${reason}): ${exit.message}`, { reason }));
      };
      const onDeviceError = (device: string, message: string): void => {
        reject(this.#failed(`its ${device} device was stopped: ${message}`, {}));
      };
      const onAbort = (): void => {
        if (signal !== undefined) reject(abortedError(signal, `creating "${this.#place.name}"`));
      };
      const timer = setTimeout(() => reject(this.#timedOut()), bootTimeoutMs);
      machine.once('exit', onExit);
      machine.once('device-error', onDeviceError);
      if (machine.exit !== undefined) onExit(machine.exit);
      signal?.addEventListener('abort', onAbort, { once: true });
      if (signal?.aborted) onAbort();
      stop = () => {
        clearTimeout(timer);
        machine.off('exit', onExit);
        machine.off('device-error', onDeviceError);
        signal?.removeEventListener('abort', onAbort);
      };
    });
    failed.catch(() => {});
    return { failed, stop: () => stop() };
  }

  #failed(why: string, details: { cause?: unknown; reason?: string }): SandboxError {
    const stage = this.#clock.stage ?? 'kernel';
    const tail = this.#tail();
    return new SandboxError(
      'ERR_BOOT_FAILED',
      `the sandbox "${this.#place.name}" did not boot (stage ${stage}): ${why}${shownTail(tail)}`,
      {
        ...details,
        errno: details.cause instanceof EmbervmError ? details.cause.errno : undefined,
        stage,
        stages: this.#clock.soFar(),
        consoleTail: tail,
        context: {
          name: this.#place.name,
          stage,
          ...(details.reason ? { reason: details.reason } : {}),
        },
      },
    );
  }

  #timedOut(): SandboxError {
    const { bootTimeoutMs } = this.#options;
    const stage = this.#clock.stage ?? 'kernel';
    const tail = this.#tail();
    return new SandboxError(
      'ERR_BOOT_TIMEOUT',
      `the sandbox "${this.#place.name}" was not ready after ${bootTimeoutMs} ms (stage ${stage}). ` +
        `A slow host may need a larger bootTimeoutMs${shownTail(tail)}`,
      {
        stage,
        stages: this.#clock.soFar(),
        consoleTail: tail,
        context: { name: this.#place.name, stage, bootTimeoutMs },
      },
    );
  }

  #tail(): string {
    return this.#machine?.consoleTail(TAIL_BYTES) ?? '';
  }

  #report(machine: Machine, info: AgentInfo): BootReport {
    return {
      stages: this.#clock.stages,
      totalMs: this.#clock.totalMs,
      machineSetupMs: machine.stats().setupNs / NS_PER_MS,
      guest: {
        kernelRelease: info.kernelRelease,
        agentVersion: info.agentVersion,
        agentStartedMs: Number(info.startedNs) / NS_PER_MS,
        agentDialledMs: Number(info.dialledNs) / NS_PER_MS,
      },
    };
  }
}
