/**
 * From what a name stands for to one image: through indexes of platforms, which may lead to other
 * indexes, to a manifest, its configuration and the descriptors of its layers. Where the bytes come
 * from is the caller's; that they are the right ones is verified here.
 */
import { type ErrorContext, ImageError } from '../errors.js';
import { digestOf, isDigest, verifyBytes } from './manifest-digest.js';
import {
  addContext,
  arrayOf,
  type Descriptor,
  descriptorOf,
  invalid,
  isObject,
  type JsonObject,
  parseJson,
  textOf,
} from './manifest-json.js';
import {
  architectureOf,
  formatPlatform,
  listPlatforms,
  type Platform,
  rankEntries,
  suitability,
  unsuitable,
} from './manifest-platform.js';
import {
  checkConfigType,
  compressionOf,
  type DocumentKind,
  documentKindOf,
} from './manifest-types.js';
import type { ImageContents, LayerDescriptor } from './source.js';

export const MAX_MANIFEST_BYTES: number = 4 * 1024 * 1024;
export const MAX_CONFIG_BYTES: number = 8 * 1024 * 1024;
export const MAX_LAYERS = 128;
const MAX_INDEX_DEPTH = 4;
/** Of one name, over all of its indexes. */
const MAX_DOCUMENTS = 64;

/** The bytes of an index or a manifest, and what the one who sent them calls them. */
export interface ManifestBytes {
  readonly bytes: Uint8Array;
  readonly mediaType: string;
}

/** Where the documents of an image are. What it returns need not be verified. */
export interface DocumentReader {
  readManifest(descriptor: Descriptor): Promise<Uint8Array>;
  /** Never more than the descriptor's size. */
  readConfig(descriptor: Descriptor): Promise<Uint8Array>;
}

export interface ResolveImageOptions {
  root: ManifestBytes;
  /** What the root must be, when a reference or a descriptor says so. */
  rootDigest?: string | undefined;
  reader: DocumentReader;
  platform: Platform;
  /** How messages name the image. */
  name: string;
  reference: string | null;
  context?: ErrorContext | undefined;
}

/** Finds the image for the platform. */
export async function resolveImage(options: ResolveImageOptions): Promise<ImageContents> {
  try {
    return await resolveRoot(options);
  } catch (error) {
    throw addContext(error, options.context);
  }
}

async function resolveRoot(options: ResolveImageOptions): Promise<ImageContents> {
  const { root, rootDigest, name, context } = options;
  if (rootDigest !== undefined) {
    verifyBytes(root.bytes, { digest: rootDigest, what: `the manifest of ${name}`, context });
  }
  const walk = new Walk(options);
  const digest = digestOf(root.bytes);
  const found = await walk.visit(root, digest, 0);
  if (found === undefined) throw walk.noMatch();
  return { ...found, rootDigest: digest, reference: options.reference };
}

type Found = Omit<ImageContents, 'rootDigest' | 'reference'>;

class Walk {
  readonly #options: ResolveImageOptions;
  /** A document that was seen is not looked at again, so no cycle or fan-out goes on for ever. */
  readonly #seen = new Set<string>();
  readonly #available = new Set<string>();

  constructor(options: ResolveImageOptions) {
    this.#options = options;
  }

  noMatch(): ImageError {
    const { name, platform } = this.#options;
    const available = [...this.#available];
    const list = available.length === 0 ? 'none that it names' : available.join(', ');
    return unsuitable(
      `${name} is not made for ${formatPlatform(platform)}, but for: ${list}`,
      platform,
      available,
    );
  }

  /** Undefined when nothing there is for the platform. */
  async visit(document: ManifestBytes, digest: string, depth: number): Promise<Found | undefined> {
    const what = `the manifest ${digest} of ${this.#options.name}`;
    this.#seen.add(digest);
    if (this.#seen.size > MAX_DOCUMENTS) this.#refuse('manifests', MAX_DOCUMENTS);
    if (document.bytes.byteLength > MAX_MANIFEST_BYTES) this.#refuse('bytes', MAX_MANIFEST_BYTES);
    // Of what is no manifest at all, such as a login page, the type says more than the bytes.
    documentKindOf(document.mediaType, what);
    const content = parseJson(document.bytes, what);
    return kindOf(content, document.mediaType, what) === 'index'
      ? this.#visitIndex(content, what, depth)
      : this.#readImage(document.bytes, digest, content, what);
  }

  #refuse(limit: string, value: number): never {
    throw new ImageError(
      'ERR_IMAGE_LIMIT',
      `the manifest of ${this.#options.name} goes over a limit: at most ${value} ${limit}`,
      { context: { ...this.#options.context, limit, value } },
    );
  }

  async #visitIndex(content: JsonObject, what: string, depth: number): Promise<Found | undefined> {
    if (depth >= MAX_INDEX_DEPTH) this.#refuse('indexes below each other', MAX_INDEX_DEPTH);
    const entries = arrayOf(content, 'manifests', what).map((entry, index) =>
      descriptorOf(entry, `entry ${index} of ${what}`),
    );
    for (const platform of listPlatforms(entries)) this.#available.add(platform);
    for (const entry of rankEntries(entries, this.#options.platform)) {
      if (this.#seen.has(entry.digest)) continue;
      const found = await this.visit(await this.#fetch(entry), entry.digest, depth + 1);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async #fetch(entry: Descriptor): Promise<ManifestBytes> {
    const { reader, name, context } = this.#options;
    const what = `the manifest ${entry.digest} of ${name}`;
    documentKindOf(entry.mediaType, what);
    if (entry.size > MAX_MANIFEST_BYTES) this.#refuse('bytes', MAX_MANIFEST_BYTES);
    const bytes = await reader.readManifest(entry);
    verifyBytes(bytes, { digest: entry.digest, size: entry.size, what, context });
    return { bytes, mediaType: entry.mediaType };
  }

  async #readImage(
    manifest: Uint8Array,
    manifestDigest: string,
    content: JsonObject,
    what: string,
  ): Promise<Found | undefined> {
    const { reader, platform, name, context } = this.#options;
    const config = descriptorOf(content.config, `the configuration in ${what}`);
    checkConfigType(config.mediaType, name);
    const layers = arrayOf(content, 'layers', what).map((layer, index) =>
      descriptorOf(layer, `layer ${index} of ${what}`),
    );
    if (layers.length > MAX_LAYERS) this.#refuse('layers', MAX_LAYERS);
    if (config.size > MAX_CONFIG_BYTES) this.#refuse('bytes of configuration', MAX_CONFIG_BYTES);
    const bytes = await reader.readConfig(config);
    const label = `the configuration ${config.digest} of ${name}`;
    verifyBytes(bytes, { digest: config.digest, size: config.size, what: label, context });
    const image = parseImageConfig(bytes, label);
    if (suitability(image.platform, platform) < 0) {
      this.#available.add(formatPlatform(image.platform));
      return undefined;
    }
    return {
      manifestDigest,
      manifest,
      config: bytes,
      configDigest: config.digest,
      layers: pairLayers(layers, image.diffIds, name),
    };
  }
}

/**
 * Index or manifest. A document that could be read as both is refused, and so is one that says to
 * be another than it was announced as: two readers must not see two images in the same bytes.
 */
function kindOf(content: JsonObject, announced: string, what: string): DocumentKind {
  const stated = (textOf(content, 'mediaType', what) ?? '').toLowerCase();
  const byHeader = documentKindOf(announced, what);
  const byContent = documentKindOf(stated, what);
  const hasLayers = 'layers' in content || 'config' in content;
  const hasManifests = 'manifests' in content;
  if (hasLayers && hasManifests) invalid(what, 'it is an image and an index at the same time');
  if (byHeader !== undefined && byContent !== undefined && announced !== stated) {
    invalid(what, `it was announced as ${announced}, but says to be ${stated}`);
  }
  if (!hasLayers && !hasManifests) {
    const old = content.schemaVersion === 1 ? ': Docker schema 1 is not supported' : '';
    invalid(what, `it has neither layers nor manifests${old}`);
  }
  const kind = hasManifests ? 'index' : 'manifest';
  if ((byContent ?? byHeader ?? kind) !== kind) invalid(what, `it is not ${stated || announced}`);
  return kind;
}

export interface ImageConfigFacts {
  readonly platform: Platform;
  readonly diffIds: readonly string[];
}

/** What the layers need of a configuration; the rest is read where it is applied. */
export function parseImageConfig(bytes: Uint8Array, what: string): ImageConfigFacts {
  const content = parseJson(bytes, what);
  const { rootfs } = content;
  if (!isObject(rootfs)) invalid(what, 'it has no "rootfs"');
  const diffIds = arrayOf(rootfs, 'diff_ids', what).map((id) =>
    isDigest(id) ? id : invalid(what, 'a diff ID is not a sha256 digest'),
  );
  const architecture = architectureOf(textOf(content, 'architecture', what) ?? '');
  const variant = textOf(content, 'variant', what)?.toLowerCase();
  const os = (textOf(content, 'os', what) ?? '').toLowerCase();
  if (os === '' || architecture === '') invalid(what, 'it does not tell its platform');
  return { platform: { os, architecture, variant }, diffIds };
}

function pairLayers(
  layers: readonly Descriptor[],
  diffIds: readonly string[],
  name: string,
): LayerDescriptor[] {
  if (layers.length !== diffIds.length) {
    invalid(name, `it has ${layers.length} layers, but diff IDs of ${diffIds.length}`);
  }
  return layers.map(({ digest, size, mediaType }, index) => {
    const compression = compressionOf(mediaType, `layer ${digest} of ${name}`);
    const diffId = diffIds[index] ?? '';
    if (compression === 'none' && diffId !== digest) {
      invalid(name, `layer ${digest} is not packed, but its diff ID is another: ${diffId}`);
    }
    return { digest, size, mediaType, compression, diffId };
  });
}
