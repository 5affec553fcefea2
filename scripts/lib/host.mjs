// What the host must offer. Each check returns one sentence with the cure, or undefined.
import { accessSync, constants, existsSync } from 'node:fs';
import { userInfo } from 'node:os';

const NODE_FLOOR = [20, 19];

/** @param {string} version as in `process.versions.node` */
export function checkNode(version = process.versions.node) {
  const [major, minor] = version.split('.').map(Number);
  if (major > NODE_FLOOR[0] || (major === NODE_FLOOR[0] && minor >= NODE_FLOOR[1]))
    return undefined;
  return `Node ${version} is too old: install Node ${NODE_FLOOR.join('.')} or newer.`;
}

/** @param {string} device */
export function checkKvm(device = '/dev/kvm') {
  if (!existsSync(device)) {
    return (
      `${device} does not exist, so no virtual machine can run: load the module (modprobe kvm_intel ` +
      'or modprobe kvm_amd); inside a VM enable nested virtualization on its host; inside a ' +
      'container pass the device in (--device /dev/kvm).'
    );
  }
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
  } catch {
    const user = userInfo().username;
    return `${device} is not readable and writable for ${user}: run "usermod -aG kvm ${user}" as root and log in again, or run as root.`;
  }
  return undefined;
}

/**
 * @param {string[]} missing names of Debian packages
 * @param {{ uid: number, apt: boolean }} host
 */
export function checkInstall(missing, host) {
  if (missing.length === 0) return undefined;
  const names = missing.join(' ');
  if (!host.apt) {
    return `This set-up installs Debian packages and found no apt-get: install the equivalents of ${names}.`;
  }
  if (host.uid !== 0) {
    return `Installing Debian packages needs root: run "apt-get install ${names}" as root, or run this command as root.`;
  }
  return undefined;
}
