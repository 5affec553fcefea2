/**
 * What `docker save` wrote before it wrote OCI layouts: `manifest.json` names the configuration and
 * the layers of each image by their paths. There is no manifest with digests in it, so one is made,
 * always the same for the same image.
 */
import { ImageError } from '../../errors.js';
import { MAX_CONFIG_BYTES, MAX_LAYERS, parseImageConfig, resolveImage } from '../manifest.js';
import { digestOf, verifyStream } from '../manifest-digest.js';
import { arrayOf, invalid, isObject, textOf } from '../manifest-json.js';
import type { Platform } from '../manifest-platform.js';
import { DOCKER_CONFIG, DOCKER_MANIFEST, layerTypeOf } from '../manifest-types.js';
import type {
  ImageContents,
  LayerCompression,
  LayerDescriptor,
  OpenBlobOptions,
} from '../source.js';
import { canonicalName, choose, type Named } from './names.js';
import type { Files } from './oci-layout.js';
import { type Extent, readExtent, readSmall } from './regular-file.js';

const MANIFEST_FILE = 'manifest.json';
const MAX_MANIFEST_FILE = 4 * 1024 * 1024;
/** A configuration is called after its digest. */
const CONFIG_NAME = /(?:^|\/)([a-f0-9]{64})(?:\.json)?$/;
const GZIP_MAGIC = Buffer.from([0x1f, 0x8b]);
const ZSTD_MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);

export interface SavedImage extends Named {
  readonly configPath: string;
  readonly layerPaths: readonly string[];
}

interface LayerEntry {
  readonly mediaType: string;
  readonly size: number;
  readonly digest: string;
}

export class DockerArchive {
  readonly #files: Files;
  readonly #layers = new Map<string, Extent>();

  constructor(files: Files) {
    this.#files = files;
  }

  async exists(): Promise<boolean> {
    return (await this.#files.find(MANIFEST_FILE)) !== undefined;
  }

  /** An image that has several tags is there once for each. */
  async list(signal?: AbortSignal): Promise<SavedImage[]> {
    const what = `${this.#files.path}/${MANIFEST_FILE}`;
    const bytes = await readSmall(await this.#need(MANIFEST_FILE), what, MAX_MANIFEST_FILE, signal);
    let content: unknown;
    try {
      content = JSON.parse(Buffer.from(bytes).toString('utf8'));
    } catch (error) {
      invalid(what, 'it is not JSON', error);
    }
    return arrayOf({ images: content }, 'images', what).flatMap((image) => imagesOf(image, what));
  }

  async resolve(
    wanted: string | undefined,
    platform: Platform,
    signal?: AbortSignal,
  ): Promise<ImageContents> {
    const { path } = this.#files;
    const image = chooseSaved(await this.list(signal), wanted, path);
    const config = await this.#readConfig(image, signal);
    const { diffIds } = parseImageConfig(config, `${path}/${image.configPath}`);
    if (image.layerPaths.length > MAX_LAYERS || diffIds.length !== image.layerPaths.length) {
      invalid(path, `it has ${image.layerPaths.length} layers, but diff IDs of ${diffIds.length}`);
    }
    const layers: LayerEntry[] = [];
    for (const [index, layerPath] of image.layerPaths.entries()) {
      layers.push(await this.#describe(layerPath, diffIds[index] ?? '', signal));
    }
    const descriptor = {
      mediaType: DOCKER_CONFIG,
      size: config.byteLength,
      digest: digestOf(config),
    };
    const manifest = {
      schemaVersion: 2,
      mediaType: DOCKER_MANIFEST,
      config: descriptor,
      layers,
    };
    return resolveImage({
      root: { bytes: Buffer.from(JSON.stringify(manifest)), mediaType: DOCKER_MANIFEST },
      reader: {
        readManifest: () => invalid(path, 'it has no index'),
        readConfig: async () => config,
      },
      platform,
      name: path,
      reference: image.reference,
      context: { path },
    });
  }

  async openBlob(
    layer: LayerDescriptor,
    { offset = 0, signal }: OpenBlobOptions,
  ): Promise<AsyncIterable<Uint8Array>> {
    const { path } = this.#files;
    const what = `the layer ${layer.digest} of ${path}`;
    const extent = this.#layers.get(layer.digest);
    if (extent === undefined) {
      throw new ImageError('ERR_IMAGE_NOT_FOUND', `${path} has no layer ${layer.digest}`, {
        context: { path, digest: layer.digest },
      });
    }
    const bytes = readExtent(extent, what, offset, signal);
    return verifyStream(bytes, { ...layer, what, context: { path } }, offset);
  }

  async #need(name: string): Promise<Extent> {
    const extent = await this.#files.find(name);
    return extent ?? invalid(this.#files.path, `it has no ${JSON.stringify(name.slice(0, 200))}`);
  }

  async #readConfig(image: SavedImage, signal?: AbortSignal): Promise<Uint8Array> {
    const { path } = this.#files;
    const what = `${path}/${image.configPath}`;
    const extent = await this.#need(image.configPath);
    const config = await readSmall(extent, what, MAX_CONFIG_BYTES, signal);
    const named = CONFIG_NAME.exec(image.configPath)?.[1];
    if (named !== undefined && digestOf(config) !== `sha256:${named}`) {
      throw new ImageError('ERR_IMAGE_DIGEST', `${what} is damaged: its digest is not its name`, {
        context: { path, expected: `sha256:${named}`, actual: digestOf(config) },
      });
    }
    return config;
  }

  /** A layer that is not packed has its diff ID for a digest; another one has to be read. */
  async #describe(name: string, diffId: string, signal?: AbortSignal): Promise<LayerEntry> {
    const extent = await this.#need(name);
    const what = `${this.#files.path}/${name}`;
    const compression = await compressionOf(extent, what);
    const digest = compression === 'none' ? diffId : await hash(extent, what, signal);
    this.#layers.set(digest, extent);
    return { mediaType: layerTypeOf(compression), size: extent.size, digest };
  }
}

/** Several names of one image leave no choice. */
function chooseSaved(images: SavedImage[], wanted: string | undefined, path: string): SavedImage {
  const [first] = images;
  const same =
    first !== undefined &&
    images.every(
      ({ configPath, layerPaths }) =>
        configPath === first.configPath && layerPaths.join() === first.layerPaths.join(),
    );
  return wanted === undefined && same ? first : choose(images, wanted, path);
}

function imagesOf(value: unknown, what: string): SavedImage[] {
  if (!isObject(value)) invalid(what, 'an image is not an object');
  const configPath = textOf(value, 'Config', what) ?? invalid(what, 'an image has no "Config"');
  const layerPaths = strings(arrayOf(value, 'Layers', what), what);
  const tags = value.RepoTags === null ? [] : (value.RepoTags ?? []);
  const names = strings(arrayOf({ tags }, 'tags', what), what).map(canonicalName);
  const references = names.length === 0 ? [null] : names;
  return references.map((reference) => ({ configPath, layerPaths, reference }));
}

function strings(values: readonly unknown[], what: string): string[] {
  return values.map((value) =>
    typeof value === 'string' ? value : invalid(what, 'a name in it is not a string'),
  );
}

async function compressionOf(extent: Extent, what: string): Promise<LayerCompression> {
  const size = Math.min(extent.size, ZSTD_MAGIC.length);
  const head = await readSmall({ ...extent, size }, what, size);
  if (GZIP_MAGIC.equals(head.subarray(0, GZIP_MAGIC.length))) return 'gzip';
  return ZSTD_MAGIC.equals(head) ? 'zstd' : 'none';
}

async function hash(extent: Extent, what: string, signal?: AbortSignal): Promise<string> {
  const { createHash } = await import('node:crypto');
  const sum = createHash('sha256');
  for await (const chunk of readExtent(extent, what, 0, signal)) sum.update(chunk);
  return `sha256:${sum.digest('hex')}`;
}
