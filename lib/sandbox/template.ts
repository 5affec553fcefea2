/** Saves a guest that has just been set up, for others to go on from. */
import type { Machine } from '../machine/machine.js';
import { copyDisk } from '../state/disk-copy.js';
import { TemplateDraft } from '../state/templates/template-store.js';
import type { BootContext, GuestFacts } from './guest-source.js';

/** That it could not be saved matters to nobody but the next. */
export async function saveTemplate(
  key: string,
  guest: { machine: Machine; facts: GuestFacts },
  { diskPath, warn }: BootContext,
): Promise<void> {
  const { machine, facts } = guest;
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
    const { kernelRelease, agentVersion } = facts;
    await draft.commit({ kernelRelease, agentVersion });
  } catch (error) {
    await draft?.abandon();
    warn(`no template was made: ${(error as Error).message}`);
  }
}
