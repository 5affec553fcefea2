/** The root of a sandbox: a read-only base, a writable layer, an overlay of both. */
import type { AgentClient, AgentInfo, GuestMount } from '../../rpc/agent-client.js';
import type { UpperDisk } from '../../state/upper-disk.js';
import type { BootWatch } from './boot-watch.js';
import type { VmFacts } from './vm-factory.js';
import type { VmRequest } from './vm-request.js';

const NS_PER_MS = 1e6;
/** The disks in the order in which the machine gets them. */
const BASE_DISK = '/dev/vda';
const UPPER: GuestMount = { source: '/dev/vdb', fstype: 'ext4' };

export async function setUpRoot(
  { assets, clock, config, hostname }: VmRequest,
  watch: BootWatch,
  agent: AgentClient,
  upper: UpperDisk,
): Promise<void> {
  clock.begin('root');
  const restricted = config.securityProfile === 'restricted';
  const lower: GuestMount = { source: BASE_DISK, fstype: assets.baseType, readOnly: true };
  const setUp = { lower, upper: UPPER, growUpper: upper.grow, hostname, restricted };
  await watch.ask('set up the root', () => agent.setUpRoot(setUp));
}

/** Of a guest that booted just now. */
export function factsOf(info: AgentInfo): VmFacts {
  const { kernelRelease, agentVersion, startedNs, dialledNs } = info;
  return {
    kernelRelease,
    agentVersion,
    agentStartedMs: Number(startedNs) / NS_PER_MS,
    agentDialledMs: Number(dialledNs) / NS_PER_MS,
  };
}

/** Of a guest that booted before. */
export function olderFacts({
  kernelRelease,
  agentVersion,
}: Pick<VmFacts, 'kernelRelease' | 'agentVersion'>): VmFacts {
  return { kernelRelease, agentVersion, agentStartedMs: null, agentDialledMs: null };
}
