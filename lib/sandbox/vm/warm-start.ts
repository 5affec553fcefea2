/** A VM that goes on from a template. */
import { Machine } from '../../machine/machine.js';
import { acceptAgent, GUEST_CID } from '../../rpc/accept-agent.js';
import type { AgentClient } from '../../rpc/agent-client.js';
import { copyDisk } from '../../state/disk-copy.js';
import type { Template } from '../../state/templates/template-store.js';
import type { UpperDisk } from '../../state/upper-disk.js';
import { renew } from './agent-link.js';
import type { BootWatch } from './boot-watch.js';
import { olderFacts, setUpRoot } from './root-set-up.js';
import type { Vm } from './vm-factory.js';
import type { VmRequest } from './vm-request.js';

/** A guest that goes on needs a fraction of a second; a boot is better than to wait for long. */
export const WARM_LIMIT_MS = 15_000;

/**
 * Its kernel has booted, and its root is set up: the disk is that of the template, or of a snapshot,
 * for which nothing else can stand in: `limitMs` is for templates.
 */
export async function startReady(
  request: VmRequest,
  template: Omit<Template, 'key'>,
  limitMs: number = WARM_LIMIT_MS,
): Promise<Vm> {
  const { clock, diskPath, durable } = request;
  clock.begin('disk');
  await copyDisk(template.disk, diskPath, { durable });
  const { machine, agent } = await goOn(request, template, limitMs);
  return { machine, agent, facts: olderFacts(template.guest), start: 'warm' };
}

/** Its kernel has booted, no more: any disk of the template's size will do. */
export async function startBooted(
  request: VmRequest,
  template: Template,
  upper: UpperDisk,
): Promise<Vm> {
  const { machine, agent, watch } = await goOn(request, template, WARM_LIMIT_MS);
  await setUpRoot(request, watch, agent, upper);
  return { machine, agent, facts: olderFacts(template.guest), start: 'warm' };
}

async function goOn(
  request: VmRequest,
  template: Omit<Template, 'key'>,
  limitMs: number,
): Promise<{ machine: Machine; agent: AgentClient; watch: BootWatch }> {
  const { assets, clock, diskPath, hostname, signal } = request;
  clock.begin('restore');
  const machine = await Machine.restore(template.machine, {
    drives: [
      { id: 'base', path: assets.base, readOnly: true },
      { id: 'upper', path: diskPath, readOnly: false },
    ],
    // It may have been imported: no other file of this host is for its guest.
    onlyTheseDrives: true,
    vsock: { cid: GUEST_CID },
    signal,
  });
  const watch = request.attach(machine, limitMs);
  const dialled = acceptAgent(machine);
  await machine.resume();
  clock.begin('agent');
  const agent = await watch.during(dialled);
  await renew(agent, watch, hostname);
  return { machine, agent, watch };
}
