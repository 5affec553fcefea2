/** Images in files of this host: OCI layouts, and the archives of `docker save` and others. */
import { join } from 'node:path';
import { ImageError } from '../../errors.js';
import { addContext } from '../manifest-json.js';
import { DEFAULT_PLATFORM, parsePlatform } from '../manifest-platform.js';
import type {
  ImageContents,
  ImageSource,
  LayerDescriptor,
  OpenBlobOptions,
  ResolveOptions,
} from '../source.js';
import { DockerArchive } from './docker-archive.js';
import type { Named } from './names.js';
import { type Files, OciLayout } from './oci-layout.js';
import { type Extent, openRegular } from './regular-file.js';
import { indexTar } from './tar-index.js';
import { openArchive } from './unpack.js';

export interface LocalSourceOptions {
  /** Which of several images: a name, or the tag of a layout. */
  reference?: string | undefined;
  /** Default `linux/amd64`. */
  platform?: string | undefined;
  /** Where packed archives are unpacked to; default the directory for temporary files. */
  scratchDir?: string | undefined;
}

/** The files of a directory, which are open until it is closed. */
class DirectoryFiles implements Files {
  readonly path: string;
  readonly #open = new Map<string, Extent>();

  constructor(path: string) {
    this.path = path;
  }

  async find(name: string): Promise<Extent | undefined> {
    const known = this.#open.get(name);
    if (known !== undefined) return known;
    try {
      const extent = await openRegular(join(this.path, name));
      const other = this.#open.get(name);
      if (other !== undefined) {
        await extent.file.close();
        return other;
      }
      this.#open.set(name, extent);
      return extent;
    } catch (error) {
      if (error instanceof ImageError && error.code === 'ERR_IMAGE_NOT_FOUND') return undefined;
      throw error;
    }
  }

  async close(): Promise<void> {
    const extents = [...this.#open.values()];
    this.#open.clear();
    await Promise.all(extents.map(({ file }) => file.close()));
  }
}

type Store = OciLayout | DockerArchive;

interface Opened {
  readonly store: Store;
  close(): Promise<void>;
}

/** What a directory and an archive have in common: they are opened once, when first needed. */
abstract class LocalSource implements ImageSource {
  protected readonly path: string;
  protected readonly options: LocalSourceOptions;
  #opened: Promise<Opened> | undefined;

  constructor(path: string, options: LocalSourceOptions = {}) {
    this.path = path;
    this.options = options;
  }

  protected abstract open(signal: AbortSignal | undefined): Promise<Opened>;

  async #withStore<Result>(
    signal: AbortSignal | undefined,
    use: (store: Store) => Promise<Result>,
  ): Promise<Result> {
    this.#opened ??= this.open(signal).catch((error) => {
      this.#opened = undefined;
      throw error;
    });
    const { store } = await this.#opened;
    try {
      return await use(store);
    } catch (error) {
      throw addContext(error, { path: this.path });
    }
  }

  /** The canonical names of what is there; null for images without one. */
  async list({ signal }: ResolveOptions = {}): Promise<(string | null)[]> {
    return this.#withStore(signal, async (store) => {
      const images: readonly Named[] = await store.list(signal);
      return images.map(({ reference }) => reference);
    });
  }

  async resolve({ signal }: ResolveOptions): Promise<ImageContents> {
    const { platform, reference } = this.options;
    const wanted = platform === undefined ? DEFAULT_PLATFORM : parsePlatform(platform);
    return this.#withStore(signal, (store) => store.resolve(reference, wanted, signal));
  }

  async openBlob(
    layer: LayerDescriptor,
    options: OpenBlobOptions,
  ): Promise<AsyncIterable<Uint8Array>> {
    return this.#withStore(options.signal, (store) => store.openBlob(layer, options));
  }

  /** Streams that are still being read end with an error. */
  async close(): Promise<void> {
    const opened = await this.#opened?.catch(() => undefined);
    this.#opened = undefined;
    await opened?.close();
  }
}

/** A directory in the OCI layout. */
export class LayoutSource extends LocalSource {
  protected override async open(): Promise<Opened> {
    const files = new DirectoryFiles(this.path);
    return { store: new OciLayout(files), close: () => files.close() };
  }
}

/** A file of `docker save`, or an OCI layout in a tar archive, plain or packed with gzip. */
export class ArchiveSource extends LocalSource {
  protected override async open(signal: AbortSignal | undefined): Promise<Opened> {
    const { scratchDir } = this.options;
    const archive = await openArchive(this.path, scratchDir, signal);
    const close = (): Promise<void> => archive.file.close();
    try {
      const index = await indexTar(archive, this.path, signal);
      const files: Files = { path: this.path, find: async (name) => index.find(name) };
      // Docker writes both since version 25; the layout has the digests of the registry.
      for (const store of [new OciLayout(files), new DockerArchive(files)]) {
        if (await store.exists()) return { store, close };
      }
    } catch (error) {
      await close();
      throw error;
    }
    await close();
    throw new ImageError(
      'ERR_IMAGE_INVALID',
      `${this.path} is no archive of an image: it has neither index.json nor manifest.json`,
      { context: { path: this.path } },
    );
  }
}
