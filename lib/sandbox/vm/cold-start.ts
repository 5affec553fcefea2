/** A VM whose kernel boots. */
import { Machine } from '../../machine/machine.js';
import type { AgentClient, AgentInfo, GuestMount } from '../../rpc/agent-client.js';
import { sweepDeadSandboxes } from '../../state/sandbox-dir.js';
import type { UpperDisk } from '../../state/upper-disk.js';
import { guestCommandLine } from '../command-line.js';
import { acceptAgent, GUEST_CID } from './agent-link.js';
import type { BootWatch } from './boot-watch.js';
import { saveTemplate } from './save-template.js';
import type { Vm } from './vm-factory.js';
import type { VmRequest } from './vm-request.js';

const NS_PER_MS = 1e6;
/** The disks in the order in which the machine gets them. */
const BASE: GuestMount = { source: '/dev/vda', fstype: 'erofs', readOnly: true };
const UPPER: GuestMount = { source: '/dev/vdb', fstype: 'ext4' };

export interface ColdStartOptions {
  /** Makes the writable disk at the request's path, or finds it there. */
  disk: (request: VmRequest) => Promise<UpperDisk>;
  /** Of the template to leave behind; `undefined`: none. */
  templateKey?: string | undefined;
}

export async function coldStart(request: VmRequest, options: ColdStartOptions): Promise<Vm> {
  const { clock } = request;
  clock.begin('disk');
  const upper = await options.disk(request);
  clock.begin('machine');
  const machine = await createMachine(request);
  const watch = request.attach(machine);
  const dialled = acceptAgent(machine);
  await machine.start();
  // Left-overs of dead processes are removed while the guest is busy booting.
  sweepDeadSandboxes().catch(() => {});

  clock.begin('kernel');
  const agent = await watch.during(dialled);
  clock.begin('root');
  const info = await setUpRoot(request, watch, agent, upper);
  const facts = {
    kernelRelease: info.kernelRelease,
    agentVersion: info.agentVersion,
    agentStartedMs: Number(info.startedNs) / NS_PER_MS,
    agentDialledMs: Number(info.dialledNs) / NS_PER_MS,
  };
  if (options.templateKey !== undefined) {
    clock.begin('template');
    await watch.during(saveTemplate(options.templateKey, machine, facts, request));
  }
  return { machine, agent, facts, start: 'cold' };
}

function createMachine({ config, assets, diskPath, signal }: VmRequest): Promise<Machine> {
  const { cpus, memoryMib, kernel } = config;
  return Machine.create(
    {
      kernel: {
        path: assets.kernel,
        initrd: assets.initramfs,
        args: [...guestCommandLine, ...kernel.args],
      },
      vcpus: cpus,
      memoryMib,
      drives: [
        { id: 'base', path: assets.base, readOnly: true },
        { id: 'upper', path: diskPath },
      ],
      vsock: { cid: GUEST_CID },
    },
    { signal },
  );
}

async function setUpRoot(
  { config, hostname }: VmRequest,
  watch: BootWatch,
  agent: AgentClient,
  upper: UpperDisk,
): Promise<AgentInfo> {
  const restricted = config.securityProfile === 'restricted';
  const setUp = { lower: BASE, upper: UPPER, growUpper: upper.grow, hostname, restricted };
  // Sent together: a round trip through an emulated guest is not free.
  const [info] = await watch.ask('set up the root', () =>
    Promise.all([agent.getInfo(), agent.setUpRoot(setUp)]),
  );
  return info;
}
