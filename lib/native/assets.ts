/** Files that a guest is made of: made at set-up in a checkout, shipped in a package. */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { HostError } from '../errors.js';
import { packageRoot } from './package-root.js';

/** File names by role. */
export const assetNames = {
  kernel: 'vmlinux',
  initramfs: 'initramfs.cpio',
  base: 'base.erofs',
  upper: 'upper.ext4.sparse',
  upperSmall: 'upper-64.ext4.sparse',
} as const;

export type AssetRole = keyof typeof assetNames;

/** Where assets are looked for, best first. */
export function assetDirectories(): string[] {
  const root = packageRoot();
  return [join(root, 'build/guest'), join(root, 'prebuilds/linux-x64')];
}

/** Path of an asset, or `ERR_ASSET_MISSING` with the cure. */
export async function findAsset(role: AssetRole): Promise<string> {
  const directories = assetDirectories();
  for (const directory of directories) {
    const path = join(directory, assetNames[role]);
    if (await isReadable(path)) return path;
  }
  throw new HostError(
    'ERR_ASSET_MISSING',
    `${assetNames[role]} is in neither ${directories.join(' nor ')}. In a checkout, run ` +
      '"npm run setup"; otherwise install the package again',
    { context: { asset: assetNames[role] } },
  );
}

async function isReadable(path: string): Promise<boolean> {
  try {
    await access(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}
