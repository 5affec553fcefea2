/** VMs that are ready before anybody asks for them. */
import { randomUUID } from 'node:crypto';
import { rename, rm } from 'node:fs/promises';
import { freemem, totalmem } from 'node:os';
import { join } from 'node:path';
import type { SandboxOptions, VmConfig } from '../../config/sandbox.js';
import { parseVmCacheOptions } from '../../config/vm-cache.js';
import { SandboxError } from '../../errors.js';
import { CacheDir } from '../../state/cache-dir.js';
import { renew } from './agent-link.js';
import { type BootAssets, findBootAssets } from './boot-assets.js';
import { BootClock } from './boot-clock.js';
import { templateFactory } from './factories.js';
import { olderFacts } from './root-set-up.js';
import { templateKeys } from './template-key.js';
import type { Vm, VmFactory } from './vm-factory.js';
import { VmRequest } from './vm-request.js';
import { WARM_LIMIT_MS } from './warm-start.js';

const MIB = 1024 * 1024;
/** How often memory is looked at. */
const TICK_MS = 2_000;
/** Of the host's memory, what is left alone unless the caller says otherwise. */
const FREE_SHARE = 0.1;
const BOOT_LIMIT_MS = 300_000;
/** After so many failures in a row it is left to the requests to find out. */
const MAX_FAILURES = 3;

export interface VmCacheOptions {
  /** How many VMs wait; 1 to 256. */
  size: number;
  /** What the VMs have. Sandboxes with other values of these get theirs from `base`. */
  sandbox?: Pick<SandboxOptions, keyof VmConfig> | undefined;
  /** Makes the VMs; default `createFromTemplate()`. */
  base?: VmFactory | undefined;
  /** Memory of the host, in MiB, that must stay available; default a tenth of it. */
  minFreeMib?: number | undefined;
}

export interface VmCacheStatus {
  size: number;
  /** Paused, and ready to be used. */
  ready: number;
  making: number;
  /** Why the last VM was not made; `undefined` when it was. */
  lastError: unknown;
}

interface Waiting {
  vm: Vm;
  diskPath: string;
}

/** A factory that keeps `size` VMs, paused, and makes new ones in the background. */
export class VmCache implements VmFactory, AsyncDisposable {
  readonly #size: number;
  readonly #minFree: number;
  readonly #base: VmFactory;
  readonly #config: VmConfig;
  readonly #closing = new AbortController();
  readonly #ready: Waiting[] = [];
  readonly #timer: NodeJS.Timeout;
  #directory: Promise<CacheDir> | undefined;
  #key: Promise<string> | undefined;
  #filling: Promise<void> | undefined;
  #making = 0;
  #failures = 0;
  #lastError: unknown;

  /** @internal */
  constructor(options: VmCacheOptions) {
    const { size, sandbox, base, minFreeMib } = parseVmCacheOptions(options);
    this.#size = size;
    this.#base = (base as VmFactory | undefined) ?? templateFactory;
    this.#minFree = minFreeMib === undefined ? totalmem() * FREE_SHARE : minFreeMib * MIB;
    this.#config = sandbox;
    this.#timer = setInterval(() => this.#tick(), TICK_MS).unref();
    this.#refill();
  }

  get status(): VmCacheStatus {
    return {
      size: this.#size,
      ready: this.#ready.length,
      making: this.#making,
      lastError: this.#lastError,
    };
  }

  /** Resolves when all VMs are ready, or as many as there can be for now. */
  async filled(): Promise<void> {
    while (this.#filling !== undefined) await this.#filling;
  }

  /** One that waits, where the request is for such a one; else one of the base factory. */
  async newVm(request: VmRequest): Promise<Vm> {
    this.#requireOpen();
    if (await this.#matches(request)) {
      const waiting = this.#ready.shift();
      this.#failures = 0;
      this.#refill();
      if (waiting !== undefined) {
        try {
          return await handOver(waiting, request);
        } catch (error) {
          await request.discard();
          await drop(waiting);
          await rm(request.diskPath, { force: true });
          if (request.signal?.aborted) throw error;
          request.warn(`a VM that waited was of no use: ${(error as Error).message}`);
        }
      }
    }
    return this.#base.newVm(request);
  }

  /** Ends the VMs that nobody asked for. Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort(closedError());
    clearInterval(this.#timer);
    await this.#filling;
    await Promise.all(this.#ready.splice(0).map(drop));
    const directory = await this.#directory?.catch(() => undefined);
    this.#directory = undefined;
    await directory?.remove();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #matches(request: VmRequest): Promise<boolean> {
    this.#key ??= findBootAssets(this.#config.kernel.path).then((assets) =>
      keyOf(this.#config, assets),
    );
    return (await this.#key) === (await keyOf(request.config, request.assets));
  }

  /** One VM after the other: they would only slow each other down. */
  #refill(): void {
    this.#filling ??= this.#fill().finally(() => {
      this.#filling = undefined;
    });
  }

  async #fill(): Promise<void> {
    while (this.#wantsMore()) {
      this.#making = 1;
      try {
        this.#ready.push(await this.#make());
        this.#failures = 0;
        this.#lastError = undefined;
      } catch (error) {
        this.#failures += 1;
        this.#lastError = error;
      } finally {
        this.#making = 0;
      }
    }
  }

  #wantsMore(): boolean {
    return (
      !this.#closing.signal.aborted &&
      this.#ready.length < this.#size &&
      this.#failures < MAX_FAILURES &&
      freemem() > this.#minFree + this.#config.memoryMib * MIB
    );
  }

  async #make(): Promise<Waiting> {
    this.#directory ??= CacheDir.make();
    const { path } = await this.#directory;
    const diskPath = join(path, `${randomUUID()}.ext4`);
    const request = new VmRequest({
      config: this.#config,
      assets: await findBootAssets(this.#config.kernel.path),
      name: 'cache',
      hostname: 'cache',
      diskPath,
      durable: false,
      clock: new BootClock(),
      limits: { bootTimeoutMs: BOOT_LIMIT_MS, signal: this.#closing.signal },
      warn: () => {},
    });
    try {
      const vm = await this.#base.newVm(request);
      await vm.machine.pause();
      request.detach();
      const waiting = { vm, diskPath };
      vm.machine.unref().once('exit', () => this.#forget(waiting));
      return waiting;
    } catch (error) {
      await request.discard();
      await rm(diskPath, { force: true });
      throw error;
    }
  }

  /** It ended by itself while it waited. */
  #forget(waiting: Waiting): void {
    const at = this.#ready.indexOf(waiting);
    if (at < 0) return;
    this.#ready.splice(at, 1);
    this.#failures += 1;
    drop(waiting).catch(() => {});
  }

  /** Gives memory back where it runs short, a VM at a time, and fills up when there is enough. */
  #tick(): void {
    if (freemem() >= this.#minFree) {
      this.#refill();
      return;
    }
    const oldest = this.#ready.shift();
    if (oldest !== undefined) drop(oldest).catch(() => {});
  }

  #requireOpen(): void {
    if (this.#closing.signal.aborted) throw closedError();
  }
}

async function keyOf(config: VmConfig, assets: BootAssets): Promise<string> {
  return (await templateKeys(config, assets)).ready;
}

async function handOver({ vm, diskPath }: Waiting, request: VmRequest): Promise<Vm> {
  const { machine, agent } = vm;
  request.clock.begin('restore');
  const watch = request.attach(machine, WARM_LIMIT_MS);
  await rename(diskPath, request.diskPath);
  await machine.ref().resume();
  request.clock.begin('agent');
  await renew(agent, watch, request.hostname);
  return { machine, agent, facts: olderFacts(vm.facts), start: 'cached' };
}

async function drop({ vm, diskPath }: Waiting): Promise<void> {
  await vm.machine.close();
  await rm(diskPath, { force: true });
}

function closedError(): SandboxError {
  return new SandboxError(
    'ERR_FACTORY_CLOSED',
    'the cache of VMs is closed. Make another, or none: sandboxes start from templates without one',
  );
}
