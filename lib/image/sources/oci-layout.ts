/**
 * The OCI image layout (image specification 1.1, "image-layout.md"), wherever its files are: in a
 * directory or in an archive.
 */
import { ImageError } from '../../errors.js';
import { MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, resolveImage } from '../manifest.js';
import { verifyStream } from '../manifest-digest.js';
import {
  arrayOf,
  type Descriptor,
  descriptorOf,
  invalid,
  isObject,
  parseJson,
  textOf,
} from '../manifest-json.js';
import type { Platform } from '../manifest-platform.js';
import { documentKindOf, OCI_INDEX } from '../manifest-types.js';
import type { ImageContents, LayerDescriptor, OpenBlobOptions } from '../source.js';
import { canonicalName, choose, type Named } from './names.js';
import { type Extent, readExtent, readSmall } from './regular-file.js';

const LAYOUT_FILE = 'oci-layout';
const INDEX_FILE = 'index.json';
const LAYOUT_VERSION = '1.0.0';
const REF_NAME = 'org.opencontainers.image.ref.name';
/** The whole name, as containerd and Docker write it. */
const FULL_NAME = 'io.containerd.image.name';
const MAX_LAYOUT_FILE = 4096;

/** A tree of files, by names with slashes. */
export interface Files {
  readonly path: string;
  find(name: string): Promise<Extent | undefined>;
}

export interface LayoutImage extends Named {
  readonly descriptor: Descriptor;
}

export class OciLayout {
  readonly #files: Files;

  constructor(files: Files) {
    this.#files = files;
  }

  /** Whether these files are a layout at all. */
  async exists(): Promise<boolean> {
    const [layout, index] = [
      await this.#files.find(LAYOUT_FILE),
      await this.#files.find(INDEX_FILE),
    ];
    return layout !== undefined && index !== undefined;
  }

  /** What is named in the index. */
  async list(signal?: AbortSignal): Promise<LayoutImage[]> {
    const { content, what } = await this.#readIndex(signal);
    return arrayOf(content, 'manifests', what).map((entry, position) =>
      imageOf(descriptorOf(entry, `entry ${position} of ${what}`)),
    );
  }

  async resolve(
    wanted: string | undefined,
    platform: Platform,
    signal?: AbortSignal,
  ): Promise<ImageContents> {
    const { path } = this.#files;
    const images = await this.list(signal);
    const unnamed = images.every(({ reference, alias }) => (reference ?? alias) === undefined);
    const reader = {
      readManifest: ({ digest }: Descriptor) => this.#readBlob(digest, MAX_MANIFEST_BYTES, signal),
      readConfig: ({ digest }: Descriptor) => this.#readBlob(digest, MAX_CONFIG_BYTES, signal),
    };
    const common = { reader, platform, name: path, context: { path } };
    if (wanted === undefined && images.length > 1 && unnamed) {
      // Several entries without names are one image for several platforms.
      const bytes = (await this.#readIndex(signal)).bytes;
      return resolveImage({ ...common, root: { bytes, mediaType: OCI_INDEX }, reference: null });
    }
    const { descriptor, reference } = choose(images, wanted, path);
    documentKindOf(descriptor.mediaType, path);
    const bytes = await this.#readBlob(descriptor.digest, MAX_MANIFEST_BYTES, signal);
    return resolveImage({
      ...common,
      root: { bytes, mediaType: descriptor.mediaType },
      rootDigest: descriptor.digest,
      reference,
    });
  }

  async openBlob(
    layer: LayerDescriptor,
    { offset = 0, signal }: OpenBlobOptions,
  ): Promise<AsyncIterable<Uint8Array>> {
    const what = `the layer ${layer.digest} of ${this.#files.path}`;
    const extent = await this.#findBlob(layer.digest);
    const bytes = readExtent(extent, what, offset, signal);
    return verifyStream(bytes, { ...layer, what, context: { path: this.#files.path } }, offset);
  }

  async #readIndex(signal?: AbortSignal) {
    const { path } = this.#files;
    const layout = await this.#readFile(LAYOUT_FILE, MAX_LAYOUT_FILE, signal);
    const version = textOf(parseJson(layout, `${path}/${LAYOUT_FILE}`), 'imageLayoutVersion', path);
    if (version !== LAYOUT_VERSION) invalid(path, 'it is not a layout of version 1.0.0');
    const bytes = await this.#readFile(INDEX_FILE, MAX_MANIFEST_BYTES, signal);
    const what = `${path}/${INDEX_FILE}`;
    return { bytes, content: parseJson(bytes, what), what };
  }

  async #readFile(name: string, limit: number, signal?: AbortSignal): Promise<Uint8Array> {
    const extent = await this.#files.find(name);
    const { path } = this.#files;
    if (extent === undefined) {
      throw new ImageError('ERR_IMAGE_NOT_FOUND', `${path} has no ${name}: it is no OCI layout`, {
        context: { path },
      });
    }
    return readSmall(extent, `${path}/${name}`, limit, signal);
  }

  async #readBlob(digest: string, limit: number, signal?: AbortSignal): Promise<Uint8Array> {
    return readSmall(await this.#findBlob(digest), `${this.#files.path}: ${digest}`, limit, signal);
  }

  async #findBlob(digest: string): Promise<Extent> {
    const { path } = this.#files;
    const extent = await this.#files.find(`blobs/${digest.replace(':', '/')}`);
    if (extent !== undefined) return extent;
    throw new ImageError('ERR_IMAGE_NOT_FOUND', `${path} has no blob ${digest}`, {
      context: { path, digest },
    });
  }
}

function imageOf(descriptor: Descriptor): LayoutImage {
  const { annotations } = descriptor.raw;
  const text = (key: string): string | undefined => {
    const value = isObject(annotations) ? annotations[key] : undefined;
    return typeof value === 'string' ? value : undefined;
  };
  const alias = text(REF_NAME);
  // A reference name without a slash is a tag of the layout, not the name of an image.
  const full = text(FULL_NAME) ?? (alias?.includes('/') ? alias : undefined);
  return { descriptor, reference: canonicalName(full), alias };
}
