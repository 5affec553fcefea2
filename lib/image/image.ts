/** Images as their users see them. What it takes is loaded when it is needed. */
import type { LoadOptions, PruneOptions, PullOptions, SaveImageOptions } from '../config/image.js';
import type { ImageConfig } from './store/image-config.js';
import type { StoredImage } from './store/records.js';
import type { Removed } from './store/removal.js';

/** A layer as its registry has it. */
export interface ImageLayerInfo {
  digest: string;
  /** Of the unpacked layer. */
  diffId: string;
  mediaType: string;
  sizeBytes: number;
  unpackedBytes: number;
}

/**
 * An image of the store as it was when it was looked up.
 *
 * @example
 * const image = await Image.pull('python:3.12');
 * await using sandbox = await Sandbox.create({ image: image.digest });
 */
export class Image {
  readonly #stored: StoredImage;
  readonly #references: readonly string[];
  readonly #sizeBytes: number;

  private constructor(stored: StoredImage, references: string[], sizeBytes: number) {
    this.#stored = stored;
    this.#references = references;
    this.#sizeBytes = sizeBytes;
  }

  /** Has the image of a registry in the store; also newer than the one that is there. */
  static async pull(reference: string, options?: PullOptions): Promise<Image> {
    const { parsePullOptions } = await import('../config/image.js');
    const { pull } = await import('./store/pull.js');
    const { openSource, storedName } = await import('./store/open-source.js');
    const parsed = parsePullOptions(reference, options);
    const image = await pull({
      reference: parsed.reference,
      name: await storedName(parsed.reference),
      policy: parsed.policy ?? 'always',
      open: () => openSource(parsed.reference, parsed.auth, parsed.registry),
      report: parsed.onProgress ?? (() => {}),
      signal: parsed.signal,
    });
    return Image.#of(image);
  }

  /** All images of this `EMBERVM_HOME`, the most recently used first. */
  static async list(): Promise<Image[]> {
    const { loadImages, loadRefs } = await import('./store/records.js');
    const refs = await loadRefs();
    const images = await loadImages();
    images.sort((a, b) => b.lastUsedAt - a.lastUsedAt);
    return Promise.all(images.map((image) => Image.#of(image, refs)));
  }

  /** By a name or a digest: `ERR_IMAGE_NOT_FOUND` for what is not in the store. Pulls nothing. */
  static async inspect(reference: string): Promise<Image> {
    return Image.#of(await find(reference));
  }

  /**
   * Removes a name, and the image where it has no other; by its digest, the image with all names.
   * `ERR_IMAGE_IN_USE` while a sandbox or a snapshot, running or not, has it as its root.
   */
  static async remove(reference: string): Promise<Removed> {
    const { parseImageReference } = await import('../config/image.js');
    const { nameOrDigest } = await import('./store/open-source.js');
    const { removeImage } = await import('./store/removal.js');
    const { name, isDigest } = await nameOrDigest(parseImageReference(reference));
    return removeImage(name, isDigest);
  }

  /** Removes images that no sandbox and no snapshot uses, the least recently used first. */
  static async prune(options?: PruneOptions): Promise<Removed> {
    const { parsePruneOptions } = await import('../config/image.js');
    const { pruneImages } = await import('./store/removal.js');
    return pruneImages(parsePruneOptions(options).maxBytes);
  }

  /** Has the images of a file of `docker save`, or of an OCI archive, in the store, by their names. */
  static async load(path: string, options?: LoadOptions): Promise<Image[]> {
    const { parseLoadOptions } = await import('../config/image.js');
    const { loadArchive } = await import('./store/load.js');
    const stored = await loadArchive(parseLoadOptions(path, options));
    return Promise.all(stored.map((image) => Image.#of(image)));
  }

  /** Writes an image to an archive, which `docker load` and {@link Image.load} take. */
  static async save(reference: string, path: string, options?: SaveImageOptions): Promise<void> {
    const { parseSaveImageOptions } = await import('../config/image.js');
    const { saveArchive } = await import('./store/save.js');
    const parsed = parseSaveImageOptions(reference, path, options);
    const image = await find(parsed.reference);
    const names = await tagsOf(await Image.#of(image), parsed.reference);
    await saveArchive(image, { ...parsed, names });
  }

  static async #of(stored: StoredImage, known?: Map<string, string>): Promise<Image> {
    const { loadRefs } = await import('./store/records.js');
    const { storedBytes } = await import('./store/removal.js');
    const refs = known ?? (await loadRefs());
    const references = [...refs].flatMap(([name, digest]) =>
      digest === stored.record.digest ? [name] : [],
    );
    return new Image(stored, references.sort(), storedBytes(stored));
  }

  /** Of its manifest. */
  get digest(): string {
    return this.#stored.record.digest;
  }

  /** Names by which it was pulled or loaded. */
  get references(): readonly string[] {
    return this.#references;
  }

  /** How its programs are to be run. */
  get config(): Readonly<ImageConfig> {
    return this.#stored.config;
  }

  /** The lowest first. */
  get layers(): ImageLayerInfo[] {
    return this.#stored.record.layers.map(({ digest, diffId, mediaType, size, unpackedBytes }) => ({
      digest,
      diffId,
      mediaType,
      sizeBytes: size,
      unpackedBytes,
    }));
  }

  /** What it takes on the disk; images share layers. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get pulledAt(): Date {
    return new Date(this.#stored.record.pulledAt);
  }

  get lastUsedAt(): Date {
    return new Date(this.#stored.lastUsedAt);
  }
}

/** As archives have them: the one that was asked for, or all of an image that was by its digest. */
async function tagsOf(image: Image, wanted: string): Promise<{ name: string; tag: string }[]> {
  const { nameOrDigest } = await import('./store/open-source.js');
  const { parseReference } = await import('./reference.js');
  const { name, isDigest } = await nameOrDigest(wanted);
  return (isDigest ? image.references : [name]).flatMap((reference) => {
    const { familiar, tag, digest } = parseReference(reference);
    if (tag === null || digest !== null) return [];
    return [{ name: familiar.slice(0, -tag.length - 1), tag }];
  });
}

async function find(input: string): Promise<StoredImage> {
  const { parseImageReference } = await import('../config/image.js');
  const { nameOrDigest } = await import('./store/open-source.js');
  const { findByName } = await import('./store/pull.js');
  const { loadImage } = await import('./store/records.js');
  const { imageNotFound } = await import('./store/errors.js');
  const reference = parseImageReference(input);
  const { name, isDigest } = await nameOrDigest(reference);
  const image = isDigest ? await loadImage(name) : await findByName(name);
  if (image === undefined) throw imageNotFound(reference, 'pull it first');
  return image;
}
