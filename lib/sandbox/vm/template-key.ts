/** What templates depend on: sandboxes with the same keys can start from the same ones. */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import type { VmConfig } from '../../config/sandbox.js';
import { guestCommandLine } from '../../native/command-line.js';
import { upperTemplate } from '../../state/upper-disk.js';
import type { BootAssets } from './boot-assets.js';

/** To be raised when what is done to a guest before it is saved changes. */
const FORMAT = 5;

/** `booted`: the agent answers. `ready`: its root is set up, too. */
export type TemplateKind = 'booted' | 'ready';

export async function templateKeys(
  config: VmConfig,
  assets: BootAssets,
): Promise<Record<TemplateKind, string>> {
  const { maxCpus, memoryMib, maxMemoryMib, rootDiskMib, securityProfile, kernel } = config;
  const cpus = bootCpus(config);
  const paths = [assets.kernel, assets.initramfs, assets.base, await upperTemplate(rootDiskMib)];
  const files = await Promise.all(paths.map(identity));
  const args = [...guestCommandLine, ...kernel.args];
  const { baseType } = assets;
  const cpu = { cpus, maxCpus };
  const memory = { memoryMib, maxMemoryMib };
  const parts = { FORMAT, baseType, files, args, cpu, memory, rootDiskMib, securityProfile };
  const hash = createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32);
  return { booted: `${hash}-booted`, ready: `${hash}-ready` };
}

/**
 * With how many CPUs on line a guest boots. Where there can be more than asked for, one: a template
 * then does for any number, and the others come on line after it.
 */
export function bootCpus({ cpus, maxCpus }: Pick<VmConfig, 'cpus' | 'maxCpus'>): number {
  return maxCpus > cpus ? 1 : cpus;
}

/** Changes whenever the file does, and costs no reading of it. */
async function identity(path: string): Promise<string> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs].join(':');
  } catch {
    // Whoever opens it has the better error.
    return path;
  }
}
