/** A snapshot of a sandbox that has ended: its disk. */
import type { SandboxOptions } from '../config/sandbox.js';
import type { ResolvedSaveOptions } from '../config/snapshot.js';
import { abortedError } from '../errors.js';
import { copyDisk } from '../state/disk-copy.js';
import { readPin } from '../state/image-pin.js';
import { notFound, SandboxDir } from '../state/sandbox-dir.js';
import { SnapshotDraft } from '../state/snapshots/draft.js';
import { readSnapshot, type StoredSnapshot } from '../state/snapshots/store.js';
import { upperPath } from './registry.js';
import { rootAgain } from './sandbox-image.js';
import { findBootAssets } from './vm/boot-assets.js';
import { baseIdentity } from './vm/saved-sandbox.js';

export async function saveDisk(
  source: string,
  options: ResolvedSaveOptions,
): Promise<StoredSnapshot> {
  const { name, description, labels, replace, signal } = options;
  const directory = await SandboxDir.open(source);
  try {
    const config = await directory.records.config(source);
    if (config === undefined) throw notFound(source);
    const state = await directory.records.state(source);
    const image = await readPin(directory.path);
    const { options: stored } = config;
    const root = await rootAgain(image, (stored as SandboxOptions).image);
    const { base } = await findBootAssets(undefined, root?.base);
    const draft = await SnapshotDraft.begin(name, { replace });
    try {
      if (signal?.aborted) throw abortedError(signal, 'taking a snapshot');
      await copyDisk(upperPath(directory.path), draft.disk, { durable: true });
      const facts = {
        kind: 'disk' as const,
        createdAt: Date.now(),
        source,
        description,
        labels,
        options: { ...stored },
        base: await baseIdentity(base, image),
        image,
        // One that never was ready has not grown it.
        grow: state?.firstReadyAt == null,
        guest: null,
      };
      await draft.commit(facts, await draft.describe(signal));
    } catch (error) {
      await draft.abandon();
      throw error;
    }
    return await readSnapshot(name);
  } finally {
    await directory.release();
  }
}
