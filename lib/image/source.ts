/**
 * What the store needs of a registry, an archive or a layout, and nothing of how they work: the
 * manifest and the configuration of one image for one platform, and its layers as they were
 * stored, from any offset.
 */

/** How the bytes of a layer are packed. */
export type LayerCompression = 'none' | 'gzip' | 'zstd';

export interface LayerDescriptor {
  /** Of the packed bytes, `sha256:<hex>`. */
  readonly digest: string;
  /** Of the packed bytes. */
  readonly size: number;
  readonly mediaType: string;
  readonly compression: LayerCompression;
  /** Digest of the tar archive that the layer is once it is unpacked. */
  readonly diffId: string;
}

/** One image, chosen for one platform, whose blobs can be opened. */
export interface ImageContents {
  /** Digest of the manifest that was chosen, `sha256:<hex>`. */
  readonly manifestDigest: string;
  /** Digest of the index or manifest that the reference names (what a repo digest shows). */
  readonly rootDigest: string;
  /** The exact bytes. */
  readonly manifest: Uint8Array;
  /** The exact bytes, verified against the manifest. */
  readonly config: Uint8Array;
  readonly configDigest: string;
  /** The lowest first. */
  readonly layers: readonly LayerDescriptor[];
  /** The canonical name, `docker.io/library/python:3.12`; null for archives without a name. */
  readonly reference: string | null;
}

export interface ResolveOptions {
  signal?: AbortSignal | undefined;
}

export interface OpenBlobOptions {
  /** Where to begin, in packed bytes; default 0. */
  offset?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface ImageSource {
  /** Reads manifest and configuration; no layer. */
  resolve(options: ResolveOptions): Promise<ImageContents>;
  /** The packed bytes of a layer from `offset` on. The store verifies digest and size, too. */
  openBlob(layer: LayerDescriptor, options: OpenBlobOptions): Promise<AsyncIterable<Uint8Array>>;
  close(): Promise<void>;
}
