/** Where the VMs of sandboxes come from. */
import type { Machine } from '../../machine/machine.js';
import type { AgentClient } from '../../rpc/agent-client.js';
import type { VmRequest } from './vm-request.js';

/** A machine whose agent answers and whose root is set up. Nothing of the sandbox runs in it yet. */
export interface Vm {
  readonly machine: Machine;
  /** @internal */
  readonly agent: AgentClient;
  /** `cold`: its kernel booted; `warm`: from a template; `cached`: it was ready and waited. */
  readonly start: 'cold' | 'warm' | 'cached';
  readonly facts: VmFacts;
}

export interface VmFacts {
  kernelRelease: string;
  agentVersion: string;
  /**
   * Guest time from its clock's start to the agent's first instruction, and to its dial; `null`
   * where it was there already.
   */
  agentStartedMs: number | null;
  agentDialledMs: number | null;
}

/**
 * Makes VMs for sandboxes: `Sandbox.create({ vmFactory })`. `createNew`, `createFromTemplate` and
 * `createFromCache` make the built-in ones; one of your own gets its VMs from them.
 */
export interface VmFactory {
  /** A VM for `request`, which is handed on as it is. Rejects when none could be made. */
  newVm(request: VmRequest): Promise<Vm>;
}
