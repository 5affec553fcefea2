/** The first words with the agent of a guest that went on. */
import { randomBytes } from 'node:crypto';
import type { AgentClient } from '../../rpc/agent-client.js';
import type { BootWatch } from './boot-watch.js';

const NS_PER_MS = 1_000_000n;
const SEED_BYTES = 64;

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
