/** The factories that keep nothing: a VM is booted, or goes on from a template. */
import { rm } from 'node:fs/promises';
import { EmbervmError } from '../../errors.js';
import {
  discardTemplate,
  findTemplate,
  type Template,
} from '../../state/templates/template-store.js';
import { createUpperDisk, type UpperDisk } from '../../state/upper-disk.js';
import { coldStart } from './cold-start.js';
import { templateKey } from './template-key.js';
import type { Vm, VmFactory } from './vm-factory.js';
import type { VmRequest } from './vm-request.js';
import { warmStart } from './warm-start.js';

/** Damaged, of another version of this package, of another host; or its guest does not go on. */
const FAULTS_OF_TEMPLATE = ['ERR_SNAPSHOT_', 'ERR_BOOT_', 'ERR_MACHINE_FAULT', 'ERR_GUEST_PANIC'];

/** Each VM boots its kernel. */
export const coldFactory: VmFactory = {
  newVm: (request) => coldStart(request, { disk: newDisk }),
};

/** A VM goes on from the template of its kind; the first one boots and leaves it. */
export const templateFactory: VmFactory = { newVm: fromTemplate };

/** Boots with the disk that is there. */
export function diskFactory(grow: boolean): VmFactory {
  const disk = async ({ diskPath }: VmRequest): Promise<UpperDisk> => ({ path: diskPath, grow });
  return { newVm: (request) => coldStart(request, { disk }) };
}

function newDisk({ diskPath, config, durable }: VmRequest): Promise<UpperDisk> {
  return createUpperDisk(diskPath, config.rootDiskMib, { durable });
}

async function fromTemplate(request: VmRequest): Promise<Vm> {
  const key = await templateKey(request.config, request.assets);
  const template = await findTemplate(key);
  if (template !== undefined) {
    try {
      return await warmStart(request, template);
    } catch (error) {
      await request.discard();
      if (request.signal?.aborted) throw error;
      await giveUp(template, error, request);
    }
  }
  return coldStart(request, { disk: newDisk, templateKey: key });
}

async function giveUp(template: Template, error: unknown, request: VmRequest): Promise<void> {
  request.warn(`not started from the template ${template.key}: ${(error as Error).message}`);
  await rm(request.diskPath, { force: true });
  const code = error instanceof EmbervmError ? error.code : '';
  const faulty = FAULTS_OF_TEMPLATE.some((prefix) => code.startsWith(prefix));
  if (faulty) await discardTemplate(template.key);
}
