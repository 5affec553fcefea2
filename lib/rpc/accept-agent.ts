/** The first connection of a guest's agent. */
import type { Socket } from 'node:net';
import type { Machine } from '../machine/machine.js';
import { AGENT_PORT, AgentClient } from './agent-client.js';

export const GUEST_CID = 3;

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
