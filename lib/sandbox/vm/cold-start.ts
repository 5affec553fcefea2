/** A VM whose kernel boots. */
import { Machine } from '../../machine/machine.js';
import { guestCommandLine } from '../../native/command-line.js';
import { acceptAgent, GUEST_CID } from '../../rpc/accept-agent.js';
import { sweepDeadSandboxes } from '../../state/sandbox-dir.js';
import type { UpperDisk } from '../../state/upper-disk.js';
import { rehearse } from './rehearsal.js';
import { factsOf, setUpRoot } from './root-set-up.js';
import { saveTemplate } from './save-template.js';
import { bootCpus, type TemplateKind } from './template-key.js';
import type { Vm } from './vm-factory.js';
import type { VmRequest } from './vm-request.js';

/** For what a sandbox mounts, which is not known when a template is made. */
const HOTPLUG_SLOTS = 8;

export interface ColdStartOptions {
  /** Makes the writable disk at the request's path, or finds it there. */
  disk: (request: VmRequest) => Promise<UpperDisk>;
  /** Of the templates to leave behind; `undefined`: none. */
  templates?: { booted: string; ready?: string | undefined } | undefined;
}

export async function coldStart(request: VmRequest, options: ColdStartOptions): Promise<Vm> {
  const { clock } = request;
  const { templates } = options;
  clock.begin('disk');
  const upper = await options.disk(request);
  clock.begin('machine');
  const machine = await createMachine(request);
  const watch = request.attach(machine);
  const dialled = acceptAgent(machine);
  // Its kernel runs, and may end, before the start is answered.
  clock.begin('kernel');
  await machine.start();
  // Left-overs of dead processes are removed while the guest is busy booting.
  sweepDeadSandboxes().catch(() => {});

  const agent = await watch.during(dialled);
  const info = await watch.ask('tell about itself', () => agent.getInfo());
  const save = async (key: string | undefined, kind: TemplateKind): Promise<void> => {
    if (key === undefined) return;
    clock.begin('template');
    await watch.during(saveTemplate(key, kind, { machine, info }, request));
  };
  await save(templates?.booted, 'booted');
  await setUpRoot(request, watch, agent, upper);
  if (templates?.ready !== undefined) {
    clock.begin('template');
    await watch.during(rehearse(machine, request));
    await save(templates.ready, 'ready');
  }
  return { machine, agent, facts: factsOf(info), start: 'cold' };
}

function createMachine({ config, assets, diskPath, signal }: VmRequest): Promise<Machine> {
  const { maxCpus, memoryMib, maxMemoryMib, kernel } = config;
  return Machine.create(
    {
      kernel: {
        path: assets.kernel,
        initrd: assets.initramfs,
        args: [...guestCommandLine, ...kernel.args],
      },
      vcpus: bootCpus(config),
      maxVcpus: maxCpus,
      memoryMib,
      maxMemoryMib,
      drives: [
        { id: 'base', path: assets.base, readOnly: true },
        { id: 'upper', path: diskPath },
      ],
      vsock: { cid: GUEST_CID },
      hotplugSlots: HOTPLUG_SLOTS,
      balloon: true,
    },
    { signal },
  );
}
