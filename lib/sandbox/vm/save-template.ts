/** Saves a VM that does nothing yet, for others to go on from. */
import type { Machine } from '../../machine/machine.js';
import type { AgentInfo } from '../../rpc/agent-client.js';
import { copyDisk } from '../../state/disk-copy.js';
import { TemplateDraft } from '../../state/templates/template-store.js';
import type { TemplateKind } from './template-key.js';
import type { VmRequest } from './vm-request.js';

/** That it could not be saved matters to nobody but the next. */
export async function saveTemplate(
  key: string,
  kind: TemplateKind,
  { machine, info }: { machine: Machine; info: AgentInfo },
  { diskPath, warn }: VmRequest,
): Promise<void> {
  let draft: TemplateDraft | undefined;
  try {
    draft = await TemplateDraft.begin(key);
    if (draft === undefined) return;
    await machine.pause();
    try {
      await machine.snapshot(draft.machine);
      // Before its root is set up, nothing is known to the guest of what is on its disk.
      if (kind === 'ready') await copyDisk(diskPath, draft.disk, { durable: true });
    } finally {
      await machine.resume();
    }
    await draft.commit(info);
  } catch (error) {
    await draft?.abandon();
    warn(`no template was made: ${(error as Error).message}`);
  }
}
