/** The files that a guest is made of. */
import type { ResolvedSandboxOptions } from '../config/sandbox.js';
import { findAsset } from '../native/assets.js';

export interface BootAssets {
  kernel: string;
  initramfs: string;
  base: string;
}

export async function findBootAssets(options: ResolvedSandboxOptions): Promise<BootAssets> {
  const [kernel, initramfs, base] = await Promise.all([
    options.kernel.path ?? findAsset('kernel'),
    findAsset('initramfs'),
    findAsset('base'),
  ]);
  return { kernel, initramfs, base };
}
