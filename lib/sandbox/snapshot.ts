/** Snapshots as their users see them, by their names. */
import type { Writable } from 'node:stream';
import type { ExportOptions, ImportOptions, SnapshotListOptions } from '../config/snapshot.js';
import type { StoredSnapshot } from '../state/snapshots/store.js';

/**
 * A snapshot as it was when it was looked up: made by `sandbox.snapshot(name)`, used by
 * `Sandbox.create({ snapshot: name })`.
 *
 * @example
 * for (const { name, kind, createdAt } of await Snapshot.list()) console.log(name, kind, createdAt);
 */
export class Snapshot {
  readonly #stored: StoredSnapshot;

  /** @internal */
  constructor(stored: StoredSnapshot) {
    this.#stored = stored;
  }

  /** `ERR_SNAPSHOT_NOT_FOUND`, or `ERR_SNAPSHOT_INVALID` for one that is damaged. */
  static async get(name: string): Promise<Snapshot> {
    const { parseSnapshotName } = await import('../config/snapshot.js');
    const { readSnapshot } = await import('../state/snapshots/store.js');
    return new Snapshot(await readSnapshot(parseSnapshotName(name)));
  }

  /** Those of this `EMBERVM_HOME` that can be read, newest first. */
  static async list(options?: SnapshotListOptions): Promise<Snapshot[]> {
    const { parseSnapshotList } = await import('../config/snapshot.js');
    const { readSnapshots } = await import('../state/snapshots/store.js');
    const wanted = Object.entries(parseSnapshotList(options).labels);
    return (await readSnapshots())
      .filter(({ manifest }) => wanted.every(([key, value]) => manifest.labels[key] === value))
      .sort((a, b) => b.manifest.createdAt - a.manifest.createdAt || (a.name < b.name ? -1 : 1))
      .map((stored) => new Snapshot(stored));
  }

  /** Reads all of it: `ERR_SNAPSHOT_INVALID` names the file that is not what it was. */
  static async verify(
    name: string,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    const { parseSnapshotName } = await import('../config/snapshot.js');
    const { verifySnapshot } = await import('../state/snapshots/store.js');
    await verifySnapshot(parseSnapshotName(name), options.signal);
  }

  /** Also one that is damaged. Sandboxes that were made from it go on. */
  static async remove(name: string): Promise<void> {
    const { parseSnapshotName } = await import('../config/snapshot.js');
    const { removeSnapshot } = await import('../state/snapshots/store.js');
    await removeSnapshot(parseSnapshotName(name));
  }

  /**
   * Writes it as one archive to a path, where nothing may be, or to a stream, which is ended.
   * Base image and image are not in it. `ERR_SNAPSHOT_INVALID` when it is damaged.
   *
   * @example
   * await Snapshot.export('prepared', '/backup/prepared.tar.gz');
   */
  static async export(
    name: string,
    target: string | Writable,
    options?: ExportOptions,
  ): Promise<void> {
    const { parseExport } = await import('../config/snapshot.js');
    const request = parseExport(name, target, options);
    const { exportSnapshot } = await import('./snapshot-export.js');
    await exportSnapshot(request);
  }

  /**
   * Makes a snapshot of what `export` wrote, of a path or a stream. Where it is not whole, not
   * right, or too large, nothing has changed (`ERR_SNAPSHOT_INVALID`). Sandboxes that go on from it
   * run what was in that memory: import what you trust as much as an image.
   *
   * @example
   * const snapshot = await Snapshot.import('/backup/prepared.tar.gz', { name: 'restored' });
   */
  static async import(
    source: string | AsyncIterable<Uint8Array>,
    options?: ImportOptions,
  ): Promise<Snapshot> {
    const { parseImport } = await import('../config/snapshot.js');
    const request = parseImport(source, options);
    const { importSnapshot } = await import('./snapshot-import.js');
    return new Snapshot(await importSnapshot(request));
  }

  get name(): string {
    return this.#stored.name;
  }

  /** `memory`: a sandbox goes on at once; `disk`: it boots with the disk. */
  get kind(): 'memory' | 'disk' {
    return this.#stored.manifest.kind;
  }

  get createdAt(): Date {
    return new Date(this.#stored.manifest.createdAt);
  }

  /** Name of the sandbox that it is of. */
  get source(): string {
    return this.#stored.manifest.source;
  }

  get description(): string {
    return this.#stored.manifest.description;
  }

  get labels(): Readonly<Record<string, string>> {
    return this.#stored.manifest.labels;
  }

  /** What of memory and disk is not zero; files of several snapshots may share it. */
  get sizeBytes(): number {
    return this.#stored.manifest.files.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  }

  verify(options?: { signal?: AbortSignal | undefined }): Promise<void> {
    return Snapshot.verify(this.name, options);
  }

  export(target: string | Writable, options?: ExportOptions): Promise<void> {
    return Snapshot.export(this.name, target, options);
  }

  remove(): Promise<void> {
    return Snapshot.remove(this.name);
  }
}
