/** The VMs of this process, and how each sandbox gets its own. */
import type { HypervisorType } from '../config/virtcontainers/hypervisor.js';
import type { AgentType } from '../config/virtcontainers/parts.js';
import { ConfigError } from '../errors.js';
import type { FileLock } from '../state/lock.js';
import type { Agent } from './agents/agent.js';
import { NoopAgent } from './agents/noop.js';
import { notOwner, sandboxNotFound } from './errors.js';
import { BuiltinHypervisor } from './hypervisors/builtin.js';
import type { Hypervisor } from './hypervisors/hypervisor.js';
import { MockHypervisor } from './hypervisors/mock.js';
import type { Monitor } from './monitor.js';
import type { SandboxRecord } from './record.js';
import { directoryOf, isVmHeld, loadRecord } from './store.js';

export interface Vm {
  readonly hypervisor: Hypervisor;
  readonly agent: Agent;
  readonly monitors: Set<Monitor>;
  /** While it runs, and where it ends with this process. */
  hold: FileLock | undefined;
}

/** By the directory of the sandbox. */
const vms = new Map<string, Vm>();

const makeHypervisor: Readonly<Record<HypervisorType, (record: SandboxRecord) => Hypervisor>> = {
  mock: ({ id }) => new MockHypervisor({ id, directory: directoryOf(id) }),
  builtin: ({ id, config }) => new BuiltinHypervisor(id, config),
};

const makeAgent: Readonly<Record<AgentType, () => Agent>> = { noop: () => new NoopAgent() };

/** Whether the VM ends with the process that started it. */
export function endsWithProcess(record: SandboxRecord): boolean {
  return record.config.hypervisorType === 'builtin';
}

/** The VM that this process has, if it has it. */
export function vmHere(id: string): Vm | undefined {
  return vms.get(directoryOf(id));
}

/** The VM of a sandbox that is there; a mock is anywhere. */
export async function vmOf(record: SandboxRecord): Promise<Vm> {
  const vm = vmHere(record.id);
  if (vm !== undefined) return vm;
  if (record.state !== 'stopped' && endsWithProcess(record)) {
    throw notOwner(record.id, record.owner ?? 0);
  }
  return newVm(record);
}

/** In place of the one before it, if there was one. */
export function newVm(record: SandboxRecord): Vm {
  const hypervisor = makeHypervisor[record.config.hypervisorType](record);
  const agent = makeAgent[record.config.agentType]();
  const vm: Vm = { hypervisor, agent, monitors: new Set(), hold: undefined };
  vms.set(directoryOf(record.id), vm);
  return vm;
}

/** Lets go of what can be had again: monitors and connections, and a mock. */
export function releaseVm(id: string): void {
  const vm = vmHere(id);
  if (vm === undefined) return;
  endMonitors(vm);
  if (vm.hold !== undefined) return;
  vm.agent.close();
  vms.delete(directoryOf(id));
}

/** It has ended. */
export async function forgetVm(id: string): Promise<void> {
  const vm = vmHere(id);
  if (vm === undefined) return;
  endMonitors(vm);
  vm.agent.close();
  vms.delete(directoryOf(id));
  await vm.hold?.release();
}

export function endMonitors(vm: Vm): void {
  for (const monitor of [...vm.monitors]) monitor.close();
}

/** What a VM that ended with its process has left behind is a sandbox that is stopped. */
export async function settle(record: SandboxRecord): Promise<void> {
  if (record.state === 'stopped' || !endsWithProcess(record)) return;
  if (vmHere(record.id) !== undefined || (await isVmHeld(record.id))) return;
  record.state = 'stopped';
  record.owner = null;
  record.devices = [];
  record.interfaces = [];
  record.routes = [];
  for (const container of record.containers) {
    container.state = 'stopped';
    container.beforePause = null;
    container.devices = [];
  }
}

/** Lets the VM of a mock die as a real one can, for tests of what follows from it. */
export async function crashMock(id: string, reason = 'the test said so'): Promise<void> {
  const record = await loadRecord(id);
  if (record === undefined) throw sandboxNotFound(id);
  const { hypervisor } = await vmOf(record);
  if (hypervisor instanceof MockHypervisor) return hypervisor.crash(reason);
  throw new ConfigError('ERR_UNSUPPORTED', `crashMock: the sandbox "${id}" is no mock`, {
    context: { option: 'hypervisorType' },
  });
}
