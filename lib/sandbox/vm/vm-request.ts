/** What a sandbox needs a VM for, and what happens meanwhile. */
import type { ResolvedSandboxOptions, VmConfig } from '../../config/sandbox.js';
import type { Machine } from '../../machine/machine.js';
import type { BootAssets } from './boot-assets.js';
import type { BootClock } from './boot-clock.js';
import { BootWatch } from './boot-watch.js';

interface VmRequestParts {
  config: VmConfig;
  assets: BootAssets;
  /** Of the sandbox. */
  name: string;
  hostname: string;
  diskPath: string;
  durable: boolean;
  clock: BootClock;
  limits: Pick<ResolvedSandboxOptions, 'bootTimeoutMs' | 'signal'>;
  warn: (message: string) => void;
}

export class VmRequest {
  readonly config: VmConfig;
  /** @internal */
  readonly assets: BootAssets;
  /** @internal */
  readonly hostname: string;
  /** @internal Where the writable disk is, or is to be. */
  readonly diskPath: string;
  /** @internal The disk is of use to somebody after a crash of the host. */
  readonly durable: boolean;
  /** @internal */
  readonly clock: BootClock;
  /** @internal Something went wrong that does not matter to the sandbox itself. */
  readonly warn: (message: string) => void;
  readonly #name: string;
  readonly #limits: VmRequestParts['limits'];
  #machine: Machine | undefined;
  #watch: BootWatch | undefined;

  /** @internal */
  constructor(parts: VmRequestParts) {
    this.config = parts.config;
    this.assets = parts.assets;
    this.hostname = parts.hostname;
    this.diskPath = parts.diskPath;
    this.durable = parts.durable;
    this.clock = parts.clock;
    this.warn = parts.warn;
    this.#name = parts.name;
    this.#limits = parts.limits;
  }

  get signal(): AbortSignal | undefined {
    return this.#limits.signal;
  }

  /** @internal What the caller allows for the whole boot. */
  get bootTimeoutMs(): number {
    return this.#limits.bootTimeoutMs;
  }

  /** @internal Of the machine that was attached last. */
  watchOf(machine: Machine): BootWatch | undefined {
    return this.#machine === machine ? this.#watch : undefined;
  }

  /** @internal Takes the machine over, and watches for the end of the wait for its agent. */
  attach(machine: Machine, limitMs: number = Number.POSITIVE_INFINITY): BootWatch {
    const { bootTimeoutMs, signal } = this.#limits;
    const limits = { bootTimeoutMs: Math.min(bootTimeoutMs, limitMs), signal };
    this.#watch?.[Symbol.dispose]();
    this.#machine = machine;
    this.#watch = new BootWatch(this.#name, this.clock, machine, limits);
    return this.#watch;
  }

  /** @internal The machine is somebody else's from here. */
  detach(): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
    this.#machine = undefined;
  }

  /** @internal Closes the machine, if there is one. What is on disk stays. */
  async discard(): Promise<void> {
    const machine = this.#machine;
    this.detach();
    // The agent's connection ends with it.
    await machine?.close();
  }
}
