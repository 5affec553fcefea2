/** Where a guest with its root comes from: a boot, a template, a snapshot. */
import type { Socket } from 'node:net';
import type { ResolvedSandboxOptions } from '../config/sandbox.js';
import type { Machine } from '../machine/machine.js';
import { AGENT_PORT, AgentClient } from '../rpc/agent-client.js';
import type { BootClock } from './boot-clock.js';
import type { BootWatch } from './boot-watch.js';

export const GUEST_CID = 3;

/** A guest whose agent answers and whose root is set up. Nothing of the sandbox runs in it yet. */
export interface BootedGuest {
  machine: Machine;
  agent: AgentClient;
  facts: GuestFacts;
}

export interface GuestFacts {
  kernelRelease: string;
  agentVersion: string;
  /** `null` where the agent was there already. */
  agentStartedMs: number | null;
  agentDialledMs: number | null;
}

/** One attempt to bring a guest up. */
export interface BootContext {
  options: ResolvedSandboxOptions;
  clock: BootClock;
  name: string;
  hostname: string;
  /** Where its writable disk is, or is to be. */
  diskPath: string;
  /** Of use to somebody after a crash of the host. */
  durable: boolean;
  /** Takes the machine over: it is closed when the attempt fails, or takes longer than it may. */
  watch(machine: Machine, limitMs?: number): BootWatch;
  /** Something went wrong that does not matter to the sandbox itself. */
  warn(message: string): void;
}

export interface GuestSource {
  readonly kind: 'cold' | 'warm';
  start(context: BootContext): Promise<BootedGuest>;
  /**
   * Whether another source may succeed where this one failed; what it made of the disk is gone
   * then.
   */
  giveWay(context: BootContext, error: unknown): Promise<boolean>;
}

/** What the agent dials. The first to dial is the agent: nothing else runs in the guest yet. */
export function acceptAgent(machine: Machine): Promise<AgentClient> {
  return new Promise((resolve) => {
    const listener = machine.listenVsock(AGENT_PORT, (stream: Socket) => {
      // The machine keeps the process alive, for as long as it is to.
      resolve(new AgentClient(stream.unref()));
      listener.close().catch(() => {});
    });
  });
}
