/** A VM that goes on from a template: its kernel has booted and its root is set up. */
import { Machine } from '../../machine/machine.js';
import { copyDisk } from '../../state/disk-copy.js';
import type { Template } from '../../state/templates/template-store.js';
import { acceptAgent, GUEST_CID, renew } from './agent-link.js';
import type { Vm } from './vm-factory.js';
import type { VmRequest } from './vm-request.js';

/** A guest that goes on needs a fraction of a second; a boot is better than to wait for long. */
export const WARM_LIMIT_MS = 15_000;

export async function warmStart(request: VmRequest, template: Template): Promise<Vm> {
  const { assets, clock, diskPath, durable, hostname, signal } = request;
  clock.begin('disk');
  await copyDisk(template.disk, diskPath, { durable });
  clock.begin('restore');
  const machine = await Machine.restore(template.machine, {
    drives: [
      { id: 'base', path: assets.base },
      { id: 'upper', path: diskPath },
    ],
    vsock: { cid: GUEST_CID },
    signal,
  });
  const watch = request.attach(machine, WARM_LIMIT_MS);
  const dialled = acceptAgent(machine);
  await machine.resume();
  clock.begin('agent');
  const agent = await watch.during(dialled);
  await renew(agent, watch, hostname);
  const facts = { ...template.guest, agentStartedMs: null, agentDialledMs: null };
  return { machine, agent, facts, start: 'warm' };
}
