/** What a sandbox mounts: looked at before anything boots, attached when its root is set up. */
import { open, stat } from 'node:fs/promises';
import type { DiskFormat } from '../config/disk-format.js';
import type { ResolvedMount } from '../config/mounts.js';
import { MachineError } from '../errors.js';
import type { Machine } from '../machine/machine.js';
import type { AgentClient, MountSource } from '../rpc/agent-client.js';
import { VolumeLease } from '../volume/store.js';

/** What a share of a single file has. */
const ONLY_FILE = 'file';

/** Puts the device of a mount into the machine, where it has one, and says what is mounted then. */
type Attach = (machine: Machine, agent: AgentClient, id: string) => Promise<MountSource>;

interface Prepared {
  mount: ResolvedMount;
  attach: Attach;
}

export class SandboxMounts {
  readonly #prepared: Prepared[] = [];
  readonly #leases: VolumeLease[] = [];

  private constructor() {}

  /** Throws what is wrong on this host. Who gets the mounts releases them. */
  static async prepare(all: readonly ResolvedMount[], sandbox: string): Promise<SandboxMounts> {
    const mounts = new SandboxMounts();
    try {
      for (const mount of all) {
        mounts.#prepared.push({ mount, attach: await mounts.#prepare(mount, sandbox) });
      }
      return mounts;
    } catch (error) {
      await mounts.release();
      throw error;
    }
  }

  /** Those of the host, which no copy of the machine can have. */
  get hasDevices(): boolean {
    return this.#prepared.some(({ mount }) => mount.source.kind !== 'tmpfs');
  }

  /** Mounts all but `there`, which the guest has already. */
  async mount(
    machine: Machine,
    agent: AgentClient,
    { restricted, there }: { restricted: boolean; there: ReadonlySet<string> },
  ): Promise<void> {
    for (const [index, { mount, attach }] of this.#prepared.entries()) {
      const { target, readonly: readOnly, noexec, nosuid, nodev } = mount;
      if (there.has(target)) continue;
      await agent.mount({
        target,
        source: await attach(machine, agent, `mount${index}`),
        readOnly,
        noExec: noexec,
        noSuid: nosuid || restricted,
        noDev: nodev || restricted,
      });
    }
  }

  /** Others may have the volumes. Idempotent. */
  async release(): Promise<void> {
    await Promise.all(this.#leases.splice(0).map((lease) => lease.release()));
  }

  async #prepare(mount: ResolvedMount, sandbox: string): Promise<Attach> {
    const { source, target, readonly: readOnly } = mount;
    switch (source.kind) {
      case 'tmpfs': {
        const { sizeBytes, mode } = source;
        return async () => ({ tmpfs: { sizeBytes, mode } });
      }
      case 'bind': {
        const { path, cache, owner } = source;
        const singleFile = await isFile(path, target);
        return shareOf({ path, readOnly, singleFile, cache, owner });
      }
      case 'disk':
        await requireDisk(source.path, target);
        return diskOf({ ...source, readOnly });
      case 'volume': {
        const lease = await VolumeLease.take(source.name, sandbox, readOnly ? 'read' : 'write');
        this.#leases.push(lease);
        const { path, record } = lease.volume;
        if (record.kind === 'disk') {
          return diskOf({ path, format: 'raw', readOnly, fstype: 'ext4', grow: true });
        }
        return shareOf({ path, readOnly, quotaMib: record.quotaMib });
      }
    }
  }
}

type Share = Omit<Parameters<Machine['attachSharedDir']>[0], 'tag'>;

function shareOf(share: Share): Attach {
  return async (machine, agent, tag) => {
    const { slot } = await machine.attachSharedDir({ ...share, tag });
    await agent.bindSlot(slot);
    return share.singleFile === true ? { share: tag, path: ONLY_FILE } : { share: tag };
  };
}

function diskOf(disk: {
  path: string;
  format: DiskFormat;
  readOnly: boolean;
  fstype?: string | undefined;
  grow?: boolean;
}): Attach {
  return async (machine, agent, id) => {
    const { path, format, readOnly, fstype, grow } = disk;
    const { slot } = await machine.attachDrive({ id, path, format, readOnly });
    return { disk: await agent.bindSlot(slot), fstype, grow };
  };
}

async function isFile(path: string, target: string): Promise<boolean> {
  let found: Awaited<ReturnType<typeof stat>>;
  try {
    found = await stat(path);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const missing = code === 'ENOENT' || code === 'ENOTDIR';
    throw new MachineError(
      missing ? 'ERR_SHARED_DIR_NOT_FOUND' : 'ERR_SHARED_DIR_ACCESS',
      missing
        ? `${path}, to be mounted at ${target}, does not exist on this host. Make it first`
        : `${path}, to be mounted at ${target}, cannot be looked at: ${code}`,
      { cause, errno: code, syscall: 'stat', context: { path, target } },
    );
  }
  if (found.isDirectory() || found.isFile()) return found.isFile();
  throw new MachineError(
    'ERR_SHARED_DIR_INVALID',
    `${path}, to be mounted at ${target}, is neither a directory nor a file`,
    { context: { path, target } },
  );
}

/** What it is like inside is found when it is attached. */
async function requireDisk(path: string, target: string): Promise<void> {
  try {
    await (await open(path, 'r')).close();
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const missing = code === 'ENOENT' || code === 'ENOTDIR';
    throw new MachineError(
      missing ? 'ERR_DRIVE_NOT_FOUND' : 'ERR_DRIVE_ACCESS',
      `the disk ${path}, to be mounted at ${target}, cannot be opened: ${code}`,
      { cause, errno: code, syscall: 'open', context: { path, target } },
    );
  }
}
