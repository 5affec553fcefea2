/** The files that a guest is made of. */
import { findAsset } from '../../native/assets.js';

/** The read-only part of a root. */
export interface RootBase {
  path: string;
  fstype: 'erofs' | 'ext4';
}

export interface BootAssets {
  kernel: string;
  initramfs: string;
  base: string;
  baseType: RootBase['fstype'];
}

/** `root` takes the place of the built-in base. */
export async function findBootAssets(
  kernelPath: string | undefined,
  root?: RootBase | undefined,
): Promise<BootAssets> {
  const [kernel, initramfs, base] = await Promise.all([
    kernelPath ?? findAsset('kernel'),
    findAsset('initramfs'),
    root?.path ?? findAsset('base'),
  ]);
  return { kernel, initramfs, base, baseType: root?.fstype ?? 'erofs' };
}

export function withBase(assets: BootAssets, { path, fstype }: RootBase): BootAssets {
  return { ...assets, base: path, baseType: fstype };
}
