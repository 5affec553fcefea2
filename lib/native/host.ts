/** What this host offers. */
import { accessSync, constants, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fromNative } from '../errors.js';
import { assetDirectories, assetNames } from './assets.js';
import { loadBinding } from './binding.js';
import type { NativeHostReport } from './types.js';

/** Whether machines run here, and for each missing capability the reason and the cure. */
export type HostReport = NativeHostReport;

/** Looks at /dev/kvm and the host. Never throws for what the host lacks. */
export function probeHost(): HostReport {
  const binding = loadBinding();
  try {
    return binding.probeHost();
  } catch (error) {
    throw fromNative(error);
  }
}

/** True when addon, kernel, agent and base image are present. Synchronous: not for hot paths. */
export function isInstalled(): boolean {
  try {
    loadBinding();
  } catch {
    return false;
  }
  return Object.values(assetNames).every((name) =>
    assetDirectories().some((directory) => isReadable(join(directory, name))),
  );
}

/** Versions of the addon and of the guest kernel, such as `0.1.0 (guest Linux 6.1.170)`. */
export function runtimeVersion(): string {
  const addon = loadBinding().version;
  const kernel = kernelRelease();
  return kernel === undefined ? addon : `${addon} (guest Linux ${kernel})`;
}

const VERSION_BANNER = 'Linux version ';
/** A release is at most this long (`struct utsname`). */
const MAX_RELEASE = 64;

/** The release that the kernel image carries in its banner. */
function kernelRelease(): string | undefined {
  const path = assetDirectories()
    .map((directory) => join(directory, assetNames.kernel))
    .find(isReadable);
  if (path === undefined) return undefined;
  const image = readFileSync(path);
  const at = image.indexOf(VERSION_BANNER);
  if (at === -1) return undefined;
  const start = at + VERSION_BANNER.length;
  return image.toString('latin1', start, start + MAX_RELEASE).split(' ', 1)[0];
}

function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}
