/**
 * No VM, with the interface of one: for tests of those who use virtcontainers. It has as many
 * slots as the built-in VMM, and can be told to die.
 */
import { join } from 'node:path';
import type { HypervisorType } from '../../config/virtcontainers/hypervisor.js';
import { ConfigError, type EmbervmError, MachineError } from '../../errors.js';
import { vmDied } from '../errors.js';
import type { BlockDevice, Hypervisor } from './hypervisor.js';
import { HOTPLUG_SLOTS } from './slots.js';
import { Watchers } from './watchers.js';

const FIRST_LETTER = 'b'.charCodeAt(0);

export interface MockVm {
  id: string;
  /** Of the sandbox. */
  directory: string;
}

export class MockHypervisor implements Hypervisor {
  readonly type: HypervisorType = 'mock';
  readonly agentUrl: string;
  readonly consoleUrl: string;
  readonly #id: string;
  readonly #watchers = new Watchers();

  constructor({ id, directory }: MockVm) {
    this.#id = id;
    this.agentUrl = `unix://${join(directory, 'agent.sock')}`;
    this.consoleUrl = `unix://${join(directory, 'console.sock')}`;
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
  }

  async stop(): Promise<void> {}

  async pause(): Promise<void> {}

  async resume(): Promise<void> {}

  async save(): Promise<void> {
    throw new ConfigError('ERR_UNSUPPORTED', 'save: a mock has no memory that could be saved', {
      context: { option: 'hypervisorType' },
    });
  }

  async attachBlock(
    _device: BlockDevice,
    others: readonly { guestPath: string }[],
  ): Promise<string> {
    const taken = new Set(others.map(({ guestPath }) => guestPath));
    for (let slot = 0; slot < HOTPLUG_SLOTS; slot += 1) {
      const path = `/dev/vd${String.fromCharCode(FIRST_LETTER + slot)}`;
      if (!taken.has(path)) return path;
    }
    throw new MachineError('ERR_NO_FREE_SLOT', `all ${HOTPLUG_SLOTS} slots have a device`, {
      context: { sandbox: this.#id, slots: HOTPLUG_SLOTS },
    });
  }

  async detachBlock(): Promise<void> {}

  async attachInterface(): Promise<void> {}

  async detachInterface(): Promise<void> {}
}
