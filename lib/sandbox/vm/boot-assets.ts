/** The files that a guest is made of. */
import { findAsset } from '../../native/assets.js';

export interface BootAssets {
  kernel: string;
  initramfs: string;
  base: string;
}

export async function findBootAssets(kernelPath: string | undefined): Promise<BootAssets> {
  const [kernel, initramfs, base] = await Promise.all([
    kernelPath ?? findAsset('kernel'),
    findAsset('initramfs'),
    findAsset('base'),
  ]);
  return { kernel, initramfs, base };
}
