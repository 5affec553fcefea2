/** Saves a VM that has just been set up, for others to go on from. */
import type { Machine } from '../../machine/machine.js';
import { copyDisk } from '../../state/disk-copy.js';
import { TemplateDraft, type TemplateGuest } from '../../state/templates/template-store.js';
import type { VmRequest } from './vm-request.js';

/** That it could not be saved matters to nobody but the next. */
export async function saveTemplate(
  key: string,
  machine: Machine,
  { kernelRelease, agentVersion }: TemplateGuest,
  { diskPath, warn }: VmRequest,
): Promise<void> {
  let draft: TemplateDraft | undefined;
  try {
    draft = await TemplateDraft.begin(key);
    if (draft === undefined) return;
    await machine.pause();
    try {
      await machine.snapshot(draft.machine);
      await copyDisk(diskPath, draft.disk, { durable: true });
    } finally {
      await machine.resume();
    }
    await draft.commit({ kernelRelease, agentVersion });
  } catch (error) {
    await draft?.abandon();
    warn(`no template was made: ${(error as Error).message}`);
  }
}
