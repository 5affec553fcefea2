/**
 * The VMM of this package, with the guest of this package: its agent says when the guest is there,
 * and binds the drivers of disks that come later.
 */
import type { HypervisorType } from '../../config/virtcontainers/hypervisor.js';
import { ConfigError, type EmbervmError, MachineError, SandboxError } from '../../errors.js';
import { Machine } from '../../machine/machine.js';
import type { DeviceHandle, MachineExit } from '../../machine/types.js';
import { waitFor } from '../../machine/wait.js';
import { findAsset } from '../../native/assets.js';
import { guestCommandLine } from '../../native/command-line.js';
import { acceptAgent, GUEST_CID } from '../../rpc/accept-agent.js';
import { AGENT_PORT, type AgentClient } from '../../rpc/agent-client.js';
import { vmDied } from '../errors.js';
import type { SandboxRecord } from '../record.js';
import type { BlockDevice, Hypervisor } from './hypervisor.js';
import { HOTPLUG_SLOTS } from './slots.js';
import { Watchers } from './watchers.js';

const BOOT_TIMEOUT_MS = 120_000;
const TAIL_BYTES = 16 * 1024;

export class BuiltinHypervisor implements Hypervisor {
  readonly type: HypervisorType = 'builtin';
  readonly agentUrl: string = `vsock://${GUEST_CID}:${AGENT_PORT}`;
  readonly consoleUrl: undefined = undefined;
  readonly #id: string;
  readonly #config: SandboxRecord['config'];
  readonly #watchers = new Watchers();
  readonly #devices = new Map<string, DeviceHandle>();
  #machine: Machine | undefined;
  #agent: AgentClient | undefined;

  constructor(id: string, config: SandboxRecord['config']) {
    this.#id = id;
    this.#config = config;
  }

  get failure(): EmbervmError | undefined {
    return this.#watchers.failure;
  }

  watch(onFailure: (failure: EmbervmError) => void): () => void {
    return this.#watchers.watch(onFailure);
  }

  async start(signal?: AbortSignal): Promise<void> {
    const machine = await this.#create(signal);
    try {
      const exited = machine.waitUntilStopped().then((exit) => {
        throw this.#died(machine, exit);
      });
      exited.catch(() => {});
      const dialled = acceptAgent(machine);
      await machine.start();
      const what = `starting the VM of the sandbox "${this.#id}"`;
      const agent = await waitFor(Promise.race([dialled, exited]), {
        what,
        timeoutMs: BOOT_TIMEOUT_MS,
        signal,
      });
      if (agent === undefined) throw this.#timedOut(machine);
      this.#agent = agent;
    } catch (error) {
      await machine.close();
      throw error;
    }
    this.#machine = machine;
    machine.once('exit', (exit) => {
      if (this.#machine === machine) this.#watchers.fail(this.#died(machine, exit));
    });
    if (machine.exit !== undefined) this.#watchers.fail(this.#died(machine, machine.exit));
  }

  async stop(): Promise<void> {
    const machine = this.#machine;
    this.#machine = undefined;
    this.#agent?.close();
    this.#agent = undefined;
    this.#devices.clear();
    await machine?.close();
  }

  async pause(): Promise<void> {
    await this.#running().machine.pause();
  }

  async resume(): Promise<void> {
    await this.#running().machine.resume();
  }

  async save(directory: string): Promise<void> {
    await this.#running().machine.snapshot(directory);
  }

  async attachBlock(device: BlockDevice): Promise<string> {
    const { machine, agent } = this.#running();
    const handle = await machine.attachDrive(device);
    try {
      const path = await agent.bindSlot(handle.slot);
      this.#devices.set(device.id, handle);
      return path;
    } catch (error) {
      await machine.detach(handle).catch(() => {});
      throw error;
    }
  }

  async detachBlock(id: string): Promise<void> {
    const { machine, agent } = this.#running();
    const handle = this.#devices.get(id);
    if (handle === undefined) {
      throw new MachineError('ERR_DEVICE_NOT_FOUND', `the VM has no device "${id}"`, {
        context: { sandbox: this.#id, id },
      });
    }
    await agent.unbindSlot(handle.slot);
    await machine.detach(handle);
    this.#devices.delete(id);
  }

  async attachInterface(): Promise<void> {
    throw new ConfigError(
      'ERR_UNSUPPORTED',
      'addInterface: the guests of the built-in VMM have no network yet',
      { context: { option: 'addInterface' } },
    );
  }

  async detachInterface(): Promise<void> {}

  async #create(signal: AbortSignal | undefined): Promise<Machine> {
    const { hypervisorConfig: config, vmConfig } = this.#config;
    const [kernel, initrd, image] = await Promise.all([
      config.kernelPath ?? findAsset('kernel'),
      config.initrdPath ?? findAsset('initramfs'),
      // An initramfs of one's own is all of its guest.
      config.initrdPath === undefined ? (config.imagePath ?? findAsset('base')) : undefined,
    ]);
    const words = guestCommandLine.filter((word) => !config.debug || word !== 'quiet');
    return Machine.create(
      {
        kernel: { path: kernel, initrd, args: [...words, ...config.kernelParams] },
        vcpus: vmConfig.vcpus ?? config.numVcpus,
        maxVcpus: config.defaultMaxVcpus,
        memoryMib: vmConfig.memory ?? config.memorySize,
        drives: image === undefined ? [] : [{ id: 'image', path: image, readOnly: true }],
        hotplugSlots: HOTPLUG_SLOTS,
        vsock: { cid: GUEST_CID },
      },
      { signal },
    );
  }

  #running(): { machine: Machine; agent: AgentClient } {
    if (this.failure !== undefined) throw this.failure;
    if (this.#machine === undefined || this.#agent === undefined) {
      throw vmDied(this.#id, 'it was not started');
    }
    return { machine: this.#machine, agent: this.#agent };
  }

  #died(machine: Machine, { reason, message }: MachineExit): SandboxError {
    return vmDied(this.#id, `${reason}: ${message}`, machine.consoleTail(TAIL_BYTES));
  }

  #timedOut(machine: Machine): SandboxError {
    return new SandboxError(
      'ERR_BOOT_TIMEOUT',
      `the guest of the sandbox "${this.#id}" was not ready after ${BOOT_TIMEOUT_MS} ms`,
      { consoleTail: machine.consoleTail(TAIL_BYTES), context: { sandbox: this.#id } },
    );
  }
}
