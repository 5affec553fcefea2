/** A sandbox at one moment, as files: what another one can go on from. */
import { rm, stat } from 'node:fs/promises';
import type { SandboxOptions } from '../../config/sandbox.js';
import { MachineError } from '../../errors.js';
import { copyDisk } from '../../state/disk-copy.js';
import type { ImagePin } from '../../state/image-pin.js';
import { digestOf } from '../../state/snapshots/sparse-stream.js';
import type { TemplateGuest } from '../../state/templates/template-store.js';
import { renew } from './agent-link.js';
import { withDisk } from './factories.js';
import type { VmFactory } from './vm-factory.js';
import { startReady } from './warm-start.js';

export interface SavedSandbox {
  what: 'snapshot' | 'fork';
  kind: 'memory' | 'disk';
  /** What the sandbox was created with. */
  options: SandboxOptions;
  /** For `Machine.restore`, where memory is saved. */
  machine: string;
  disk: string;
  grow: boolean;
  guest: TemplateGuest | null;
  /** Of the base image; `undefined`: it is the one that there is. */
  base?: { bytes: number; sha256: string } | undefined;
  /** That is the root of this image, and `sha256` its key. */
  image?: ImagePin | undefined;
}

/** VMs that go on from there: with memory at once, else by a boot, or from a template that has booted. */
export function savedFactory({ machine, disk, grow, guest, base, image }: SavedSandbox): VmFactory {
  return {
    newVm: async (request) => {
      if (base !== undefined) await requireBase(request.assets.base, base, image);
      if (guest !== null)
        return startReady(request, { machine, disk, guest }, Number.POSITIVE_INFINITY);
      const vm = await withDisk(request, async ({ diskPath, durable }) => {
        await rm(diskPath, { force: true });
        await copyDisk(disk, diskPath, { durable });
        return { path: diskPath, grow };
      });
      // What of a machine's identity is on its disk came with the copy.
      const watch = request.watchOf(vm.machine);
      if (watch !== undefined) await renew(vm.agent, watch, request.hostname);
      return vm;
    },
  };
}

/** What tells a base from others. The root of an image is told by its key, unread. */
export async function baseIdentity(
  path: string,
  image: ImagePin | undefined,
): Promise<{ bytes: number; sha256: string }> {
  if (image !== undefined) return { bytes: (await stat(path)).size, sha256: image.root };
  const { bytes, sha256 } = await digestOf(path);
  return { bytes, sha256 };
}

/** Over another base image the writable layer is no file system that anybody knows. */
async function requireBase(
  path: string,
  wanted: { bytes: number; sha256: string },
  image: ImagePin | undefined,
): Promise<void> {
  const { bytes, sha256 } = await baseIdentity(path, image);
  if (bytes === wanted.bytes && sha256 === wanted.sha256) return;
  throw new MachineError(
    'ERR_SNAPSHOT_MISMATCH',
    'the snapshot was taken with another base image than this package has. Use the version of ' +
      'embervm that took it',
    { context: { path, bytes, expectedBytes: wanted.bytes } },
  );
}
