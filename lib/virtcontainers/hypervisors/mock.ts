/**
 * No VM, with the interface of one: for tests of those who use virtcontainers. It has as many
 * slots as the built-in VMM, and can be told to die.
 */
import { join } from 'node:path';
import type { HypervisorType } from '../../config/virtcontainers/hypervisor.js';
import { type EmbervmError, MachineError } from '../../errors.js';
import { vmDied } from '../errors.js';
import type { BlockDevice, Hypervisor } from './hypervisor.js';
import { HOTPLUG_SLOTS } from './slots.js';
import { Watchers } from './watchers.js';

const FIRST_LETTER = 'b'.charCodeAt(0);

export interface MockVm {
  id: string;
  /** Of the sandbox. */
  directory: string;
  /** What it had when another process started it. */
  disks: readonly { id: string; guestPath: string }[];
}

export class MockHypervisor implements Hypervisor {
  readonly type: HypervisorType = 'mock';
  readonly agentUrl: string;
  readonly consoleUrl: string;
  readonly #id: string;
  readonly #disks: Map<string, string>;
  readonly #watchers = new Watchers();

  constructor({ id, directory, disks }: MockVm) {
    this.#id = id;
    this.agentUrl = `unix://${join(directory, 'agent.sock')}`;
    this.consoleUrl = `unix://${join(directory, 'console.sock')}`;
    this.#disks = new Map(disks.map((disk) => [disk.id, disk.guestPath]));
  }

  get failure(): EmbervmError | undefined {
    return this.#watchers.failure;
  }

  watch(onFailure: (failure: EmbervmError) => void): () => void {
    return this.#watchers.watch(onFailure);
  }

  /** As when the VM dies by itself. */
  crash(reason: string): void {
    this.#watchers.fail(vmDied(this.#id, reason));
  }

  async start(): Promise<void> {
    this.#watchers.reset();
    this.#disks.clear();
  }

  async stop(): Promise<void> {
    this.#disks.clear();
  }

  async pause(): Promise<void> {}

  async resume(): Promise<void> {}

  async save(): Promise<void> {}

  async attachBlock({ id }: BlockDevice): Promise<string> {
    if (this.#disks.size >= HOTPLUG_SLOTS) {
      throw new MachineError('ERR_NO_FREE_SLOT', `all ${HOTPLUG_SLOTS} slots have a device`, {
        context: { sandbox: this.#id, slots: HOTPLUG_SLOTS },
      });
    }
    const taken = new Set(this.#disks.values());
    for (let letter = FIRST_LETTER; ; letter += 1) {
      const path = `/dev/vd${String.fromCharCode(letter)}`;
      if (taken.has(path)) continue;
      this.#disks.set(id, path);
      return path;
    }
  }

  async detachBlock(id: string): Promise<void> {
    this.#disks.delete(id);
  }

  async attachInterface(): Promise<void> {}

  async detachInterface(): Promise<void> {}
}
