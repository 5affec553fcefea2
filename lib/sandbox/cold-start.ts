/** A guest that boots its kernel, and leaves a template behind where one is wanted. */

import { Machine } from '../machine/machine.js';
import type { AgentClient, AgentInfo, GuestMount } from '../rpc/agent-client.js';
import { sweepDeadSandboxes } from '../state/sandbox-dir.js';
import type { UpperDisk } from '../state/upper-disk.js';
import type { BootAssets } from './boot-assets.js';
import type { BootWatch } from './boot-watch.js';
import { guestCommandLine } from './command-line.js';
import {
  acceptAgent,
  type BootContext,
  type BootedGuest,
  GUEST_CID,
  type GuestSource,
} from './guest-source.js';
import { saveTemplate } from './template.js';

const NS_PER_MS = 1e6;
/** The disks in the order in which the machine gets them. */
const BASE: GuestMount = { source: '/dev/vda', fstype: 'erofs', readOnly: true };
const UPPER: GuestMount = { source: '/dev/vdb', fstype: 'ext4' };

export interface ColdStartParts {
  assets: BootAssets;
  /** Makes the writable disk at the path, or finds it there. */
  disk: (path: string) => Promise<UpperDisk>;
  /** Of the template to leave behind; `undefined`: none. */
  templateKey?: string | undefined;
}

export class ColdStart implements GuestSource {
  readonly kind = 'cold';
  readonly #parts: ColdStartParts;

  constructor(parts: ColdStartParts) {
    this.#parts = parts;
  }

  async start(context: BootContext): Promise<BootedGuest> {
    const { clock } = context;
    clock.begin('disk');
    const upper = await this.#parts.disk(context.diskPath);
    clock.begin('machine');
    const machine = await this.#createMachine(context);
    const watch = context.watch(machine);
    const dialled = acceptAgent(machine);
    await machine.start();
    // Left-overs of dead processes are removed while the guest is busy booting.
    sweepDeadSandboxes().catch(() => {});

    clock.begin('kernel');
    const agent = await watch.during(dialled);
    clock.begin('root');
    const info = await this.#setUpRoot(context, watch, agent, upper);
    const facts = {
      kernelRelease: info.kernelRelease,
      agentVersion: info.agentVersion,
      agentStartedMs: Number(info.startedNs) / NS_PER_MS,
      agentDialledMs: Number(info.dialledNs) / NS_PER_MS,
    };
    const { templateKey } = this.#parts;
    if (templateKey !== undefined) {
      clock.begin('template');
      await watch.during(saveTemplate(templateKey, { machine, facts }, context));
    }
    return { machine, agent, facts };
  }

  async giveWay(): Promise<boolean> {
    return false;
  }

  #createMachine({ options, diskPath }: BootContext): Promise<Machine> {
    const { cpus, memoryMib, signal, kernel } = options;
    const { assets } = this.#parts;
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

  async #setUpRoot(
    { options, hostname }: BootContext,
    watch: BootWatch,
    agent: AgentClient,
    upper: UpperDisk,
  ): Promise<AgentInfo> {
    const restricted = options.securityProfile === 'restricted';
    const setUp = { lower: BASE, upper: UPPER, growUpper: upper.grow, hostname, restricted };
    // Sent together: a round trip through an emulated guest is not free.
    const [info] = await watch.ask('set up the root', () =>
      Promise.all([agent.getInfo(), agent.setUpRoot(setUp)]),
    );
    return info;
  }
}
