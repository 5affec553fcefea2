/** The first words with a guest's agent. */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import type { Machine } from '../../machine/machine.js';
import { AGENT_PORT, AgentClient } from '../../rpc/agent-client.js';
import type { BootWatch } from './boot-watch.js';

export const GUEST_CID = 3;
const NS_PER_MS = 1_000_000n;
const SEED_BYTES = 64;

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

/** Makes a guest that went on from where others do, too, one of its own. */
export async function renew(
  agent: AgentClient,
  watch: BootWatch,
  hostname: string | undefined,
): Promise<void> {
  const realtimeNs = BigInt(Date.now()) * NS_PER_MS;
  const randomSeed = randomBytes(SEED_BYTES);
  await watch.ask('renew the guest', () => agent.restored({ randomSeed, realtimeNs, hostname }));
}
