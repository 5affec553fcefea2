/** Whatever ends the wait for a guest early, and how a failed boot is told. */
import type { ResolvedSandboxOptions } from '../../config/sandbox.js';
import { abortedError, EmbervmError, SandboxError } from '../../errors.js';
import type { Machine } from '../../machine/machine.js';
import type { MachineExit } from '../../machine/types.js';
import { waitFor } from '../../machine/wait.js';
import { shownTail, stopReason } from '../stop-result.js';
import type { BootClock } from './boot-clock.js';

const TAIL_BYTES = 16 * 1024;
/** The end of a machine closes its connections first; the event comes a moment later. */
const EXIT_FOLLOWS_MS = 2_000;

export class BootWatch implements Disposable {
  /** Rejects when the guest ends, its time is up or the caller gives up. */
  readonly failed: Promise<never>;
  readonly #name: string;
  readonly #clock: BootClock;
  readonly #machine: Machine;
  readonly #stop: () => void;

  constructor(
    name: string,
    clock: BootClock,
    machine: Machine,
    limits: Pick<ResolvedSandboxOptions, 'bootTimeoutMs' | 'signal'>,
  ) {
    this.#name = name;
    this.#clock = clock;
    this.#machine = machine;
    const { bootTimeoutMs, signal } = limits;
    let stop = (): void => {};
    this.failed = new Promise<never>((_, reject) => {
      const onExit = (exit: MachineExit): void => {
        const reason = stopReason(exit, undefined);
        reject(this.failure(`the guest ended (${reason}): ${exit.message}`, { reason }));
      };
      const onDeviceError = (device: string, message: string): void => {
        reject(this.failure(`its ${device} device was stopped: ${message}`, {}));
      };
      const onAbort = (): void => {
        if (signal !== undefined) reject(abortedError(signal, `creating "${name}"`));
      };
      const timer = setTimeout(() => reject(this.#timedOut(bootTimeoutMs)), bootTimeoutMs);
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
    this.#stop = stop;
    this.failed.catch(() => {});
  }

  [Symbol.dispose](): void {
    this.#stop();
  }

  /** The result of `step`, unless the boot fails before. */
  during<Value>(step: Promise<Value>): Promise<Value> {
    return Promise.race([step, this.failed]);
  }

  /** Asks the agent; its answer that it could not is a failed boot. */
  async ask<Value>(what: string, call: () => Promise<Value>): Promise<Value> {
    return this.during(this.#ask(what, call));
  }

  async #ask<Value>(what: string, call: () => Promise<Value>): Promise<Value> {
    try {
      return await call();
    } catch (cause) {
      // Where the guest died of it, its own end says more, and wins the race.
      const exited = this.#machine.waitUntilStopped();
      await waitFor(exited, { what: 'the guest', timeoutMs: EXIT_FOLLOWS_MS });
      throw this.failure(`the agent could not ${what}: ${(cause as Error).message}`, { cause });
    }
  }

  failure(why: string, details: { cause?: unknown; reason?: string }): SandboxError {
    const { stage, stages, consoleTail } = this.#soFar();
    return new SandboxError(
      'ERR_BOOT_FAILED',
      `the sandbox "${this.#name}" did not boot (stage ${stage}): ${why}${shownTail(consoleTail)}`,
      {
        ...details,
        errno: details.cause instanceof EmbervmError ? details.cause.errno : undefined,
        stage,
        stages,
        consoleTail,
        context: {
          name: this.#name,
          stage,
          ...(details.reason ? { reason: details.reason } : {}),
        },
      },
    );
  }

  #timedOut(bootTimeoutMs: number): SandboxError {
    const { stage, stages, consoleTail } = this.#soFar();
    return new SandboxError(
      'ERR_BOOT_TIMEOUT',
      `the sandbox "${this.#name}" was not ready after ${bootTimeoutMs} ms (stage ${stage}). ` +
        `A slow host may need a larger bootTimeoutMs${shownTail(consoleTail)}`,
      { stage, stages, consoleTail, context: { name: this.#name, stage, bootTimeoutMs } },
    );
  }

  #soFar() {
    return {
      stage: this.#clock.stage ?? ('kernel' as const),
      stages: this.#clock.soFar(),
      consoleTail: this.#machine.consoleTail(TAIL_BYTES),
    };
  }
}
