/** Volumes as their users see them. What it takes is loaded when it is needed. */
import { stat } from 'node:fs/promises';
import type { VolumeListOptions, VolumeOptions } from '../config/volume.js';
import { ConfigError } from '../errors.js';
import { VolumeFiles } from './files.js';
import type { StoredVolume } from './store.js';

const BLOCK = 512;

/**
 * What outlives sandboxes and is mounted in them by its name, as it was when it was looked up.
 *
 * @example
 * const volume = await Volume.create('cache', { quotaMib: 512 });
 * await using sandbox = await Sandbox.create({ mounts: { '/cache': { volume: volume.name } } });
 */
export class Volume {
  readonly #stored: StoredVolume;
  #files: VolumeFiles | undefined;

  private constructor(stored: StoredVolume) {
    this.#stored = stored;
  }

  /** `ERR_VOLUME_EXISTS` where there is one of this name. */
  static async create(name: string, options?: VolumeOptions): Promise<Volume> {
    const { parseVolumeOptions } = await import('../config/volume.js');
    const { createVolume } = await import('./store.js');
    return new Volume(await createVolume(parseVolumeOptions(name, options)));
  }

  /** `ERR_VOLUME_NOT_FOUND`, or `ERR_STATE_CORRUPT` for one that is damaged. */
  static async get(name: string): Promise<Volume> {
    const { parseVolumeName } = await import('../config/volume.js');
    const { readVolume } = await import('./store.js');
    return new Volume(await readVolume(parseVolumeName(name)));
  }

  /** Those of this `EMBERVM_HOME` that can be read, newest first. */
  static async list(options?: VolumeListOptions): Promise<Volume[]> {
    const { parseVolumeList } = await import('../config/volume.js');
    const { readVolumes } = await import('./store.js');
    const wanted = Object.entries(parseVolumeList(options).labels);
    return (await readVolumes())
      .filter(({ record }) => wanted.every(([key, value]) => record.labels[key] === value))
      .map((stored) => new Volume(stored));
  }

  /** With all that is in it, also one that is damaged; `ERR_VOLUME_IN_USE` while a sandbox has it. */
  static async remove(name: string): Promise<void> {
    const { parseVolumeName } = await import('../config/volume.js');
    const { removeVolume } = await import('./store.js');
    await removeVolume(parseVolumeName(name));
  }

  get name(): string {
    return this.#stored.name;
  }

  get kind(): 'directory' | 'disk' {
    return this.#stored.record.kind;
  }

  /** On this host: of the directory, or of the disk. */
  get path(): string {
    return this.#stored.path;
  }

  /** Of a directory that has one. */
  get quotaMib(): number | undefined {
    return this.#stored.record.quotaMib;
  }

  /** Of a disk. */
  get sizeMib(): number | undefined {
    return this.#stored.record.sizeMib;
  }

  get labels(): Readonly<Record<string, string>> {
    return this.#stored.record.labels;
  }

  get createdAt(): Date {
    return new Date(this.#stored.record.createdAt);
  }

  /** Its files, from this host; of a disk, only sandboxes know its file system. */
  get files(): VolumeFiles {
    if (this.kind === 'disk') {
      throw new ConfigError(
        'ERR_UNSUPPORTED',
        `the volume "${this.name}" is a disk, whose files only a sandbox that mounts it can reach`,
        { context: { option: 'files', name: this.name } },
      );
    }
    this.#files ??= new VolumeFiles(this.path);
    return this.#files;
  }

  /** What it takes on the disk of this host. */
  async usedBytes(): Promise<number> {
    if (this.kind === 'disk') return (await stat(this.path)).blocks * BLOCK;
    const { usedBytes } = await import('./tree.js');
    return usedBytes(this.path);
  }

  remove(): Promise<void> {
    return Volume.remove(this.name);
  }
}
