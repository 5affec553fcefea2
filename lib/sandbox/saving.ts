/** Snapshots and forks of a sandbox that runs: its memory and its disk at one instant. */

import { join } from 'node:path';
import type { SandboxOptions } from '../config/sandbox.js';
import type { ResolvedSaveOptions } from '../config/snapshot.js';
import { abortedError, MachineError } from '../errors.js';
import type { Machine } from '../machine/machine.js';
import { copyDisk } from '../state/disk-copy.js';
import type { ImagePin } from '../state/image-pin.js';
import { Claim, sweepSnapshots } from '../state/snapshots/claims.js';
import { SnapshotDraft } from '../state/snapshots/draft.js';
import type { StoredSnapshot } from '../state/snapshots/store.js';
import { readSnapshot } from '../state/snapshots/store.js';
import type { TemplateGuest } from '../state/templates/template-store.js';
import type { Lifecycle } from './lifecycle.js';
import { baseIdentity, type SavedSandbox } from './vm/saved-sandbox.js';

export interface SavingParts {
  name: string;
  lifecycle: Lifecycle;
  machine: Machine;
  diskPath: string;
  guest: TemplateGuest;
  /** It mounts something of the host. */
  hasMounts: boolean;
  /** The read-only part of its root, and the image that it is of. */
  base: string;
  image: ImagePin | undefined;
  /** What the sandbox was created with. */
  options: () => Promise<SandboxOptions>;
}

/** A moment that several forks share. */
interface ForkPoint {
  saved: Promise<SavedSandbox>;
  users: number;
  release: () => Promise<void>;
}

export class Saving {
  readonly #parts: SavingParts;
  #busy = false;
  /** Has not come yet: whoever wants one meanwhile shares it. */
  #next: ForkPoint | undefined;

  constructor(parts: SavingParts) {
    this.#parts = parts;
  }

  async snapshot(options: ResolvedSaveOptions): Promise<StoredSnapshot> {
    const { name: source } = this.#parts;
    this.#requireNoMounts('snapshot');
    if (this.#busy) {
      throw new MachineError(
        'ERR_SNAPSHOT_BUSY',
        `another snapshot of the sandbox "${source}" is being taken. Wait for it`,
        { context: { name: source } },
      );
    }
    this.#busy = true;
    try {
      return await this.#snapshot(options);
    } finally {
      this.#busy = false;
    }
  }

  /** The caller calls `release` when the copy runs, or will not. */
  async forkPoint(): Promise<{ saved: SavedSandbox; release: () => Promise<void> }> {
    this.#requireNoMounts('fork');
    this.#next ??= this.#beginForkPoint();
    const point = this.#next;
    point.users += 1;
    const release = async (): Promise<void> => {
      point.users -= 1;
      if (point.users === 0) await point.release();
    };
    try {
      return { saved: await point.saved, release };
    } catch (error) {
      await release();
      throw error;
    }
  }

  async #snapshot(options: ResolvedSaveOptions): Promise<StoredSnapshot> {
    const { lifecycle, name: source, guest, base, image } = this.#parts;
    const { name, description, labels, replace, signal } = options;
    const origin = await this.#parts.options();
    const draft = await SnapshotDraft.begin(name, { replace });
    try {
      const createdAt = await lifecycle.still(async () => {
        if (signal?.aborted) throw abortedError(signal, 'taking a snapshot');
        await this.#save(draft.machine, draft.disk, true);
        return Date.now();
      });
      const files = await draft.describe(signal);
      await draft.commit(
        {
          kind: 'memory',
          createdAt,
          source,
          description,
          labels,
          options: JSON.parse(JSON.stringify(origin)),
          base: await baseIdentity(base, image),
          image,
          grow: false,
          guest,
        },
        files,
      );
    } catch (error) {
      await draft.abandon();
      throw error;
    }
    return readSnapshot(name);
  }

  #beginForkPoint(): ForkPoint {
    let claim: Claim | undefined;
    const save = async (): Promise<SavedSandbox> => {
      this.#next = undefined;
      await sweepSnapshots();
      const scratch = await Claim.scratch();
      claim = scratch.claim;
      const machine = join(scratch.path, 'machine');
      const disk = join(scratch.path, 'disk');
      await this.#save(machine, disk, false);
      const { guest, image } = this.#parts;
      const options = await this.#parts.options();
      return { what: 'fork', kind: 'memory', options, machine, disk, grow: false, guest, image };
    };
    const saved = this.#parts.lifecycle.still(save).catch((error: unknown) => {
      this.#next = undefined;
      throw error;
    });
    return { saved, users: 0, release: async () => claim?.release() };
  }

  /** What of the memory is a template's, or another snapshot's, is shared with it on the disk, too. */
  async #save(machine: string, disk: string, durable: boolean): Promise<void> {
    await this.#parts.machine.snapshot(machine, { kind: 'diff' });
    await copyDisk(this.#parts.diskPath, disk, { durable });
  }

  /** A copy would go on with files of this host, which its memory believes to be as they were. */
  #requireNoMounts(what: 'snapshot' | 'fork'): void {
    if (!this.#parts.hasMounts) return;
    throw new MachineError(
      'ERR_SNAPSHOT_UNSUPPORTED',
      `a ${what} of a running sandbox that mounts directories, volumes or disks is not possible. ` +
        'Stop it, and take a snapshot of its disk',
      { context: { name: this.#parts.name, option: 'mounts' } },
    );
  }
}
