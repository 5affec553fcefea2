/** The factories that keep nothing: a VM is booted, or goes on from a template. */
import { rm } from 'node:fs/promises';
import { EmbervmError } from '../../errors.js';
import {
  discardTemplate,
  findTemplate,
  type Template,
} from '../../state/templates/template-store.js';
import { createUpperDisk, type UpperDisk } from '../../state/upper-disk.js';
import { type ColdStartOptions, coldStart } from './cold-start.js';
import { templateKeys } from './template-key.js';
import type { Vm, VmFactory } from './vm-factory.js';
import type { VmRequest } from './vm-request.js';
import { startBooted, startReady, WARM_LIMIT_MS } from './warm-start.js';

/** Damaged, of another version of this package, of another host; or its guest does not go on. */
const FAULTS_OF_TEMPLATE = ['ERR_SNAPSHOT_', 'ERR_BOOT_', 'ERR_MACHINE_FAULT', 'ERR_GUEST_PANIC'];

/** Each VM boots its kernel. */
export const coldFactory: VmFactory = {
  newVm: (request) => coldStart(request, { disk: newDisk }),
};

/** A VM goes on from the template of its kind; the first one boots and leaves it. */
export const templateFactory: VmFactory = { newVm: fromTemplate };

/** The disk is there. It does not belong to what is in memory, so the root is set up each time. */
export function diskFactory(upper: Pick<UpperDisk, 'grow'>, warmStart: 'auto' | 'off'): VmFactory {
  const disk = async ({ diskPath: path }: VmRequest): Promise<UpperDisk> => ({ path, ...upper });
  if (warmStart === 'off') return { newVm: (request) => coldStart(request, { disk }) };
  return { newVm: (request) => withDisk(request, disk) };
}

function newDisk({ diskPath, config, durable }: VmRequest): Promise<UpperDisk> {
  return createUpperDisk(diskPath, config.rootDiskMib, { durable });
}

async function fromTemplate(request: VmRequest): Promise<Vm> {
  const keys = await templateKeys(request.config, request.assets);
  const ready = await attempt(request, keys.ready, startReady);
  if (ready !== undefined) return ready;
  await rm(request.diskPath, { force: true });
  return coldStart(request, { disk: newDisk, templates: keys });
}

/**
 * `disk` is made anew, or found, each time that it is called: a start that fails may have written to
 * it.
 */
export async function withDisk(request: VmRequest, disk: ColdStartOptions['disk']): Promise<Vm> {
  const { booted } = await templateKeys(request.config, request.assets);
  const vm = await attempt(request, booted, async (_, template) => {
    request.clock.begin('disk');
    return startBooted(request, template, await disk(request));
  });
  return vm ?? coldStart(request, { disk, templates: { booted } });
}

/** `undefined` where there is no template, or none that works. */
async function attempt(
  request: VmRequest,
  key: string,
  start: (request: VmRequest, template: Template) => Promise<Vm>,
): Promise<Vm | undefined> {
  const template = await findTemplate(key);
  if (template === undefined) return undefined;
  try {
    return await start(request, template);
  } catch (error) {
    await request.discard();
    if (request.signal?.aborted || isOutOfTime(error, request)) throw error;
    await giveUp(template, error, request);
    return undefined;
  }
}

/** A boot would not be in time either, and nothing is wrong with the template. */
function isOutOfTime(error: unknown, { bootTimeoutMs }: VmRequest): boolean {
  const timedOut = error instanceof EmbervmError && error.code === 'ERR_BOOT_TIMEOUT';
  return timedOut && bootTimeoutMs <= WARM_LIMIT_MS;
}

async function giveUp(template: Template, error: unknown, request: VmRequest): Promise<void> {
  request.warn(`not started from the template ${template.key}: ${(error as Error).message}`);
  const code = error instanceof EmbervmError ? error.code : '';
  const faulty = FAULTS_OF_TEMPLATE.some((prefix) => code.startsWith(prefix));
  if (faulty) await discardTemplate(template.key);
}
