/** A small image of the test's own, as the documents and blobs that a registry would have. */
import { createHash, randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { pack } from 'tar-stream';

export const OCI = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
};

export interface Blob {
  bytes: Buffer;
  digest: string;
  mediaType: string;
}

export interface FixtureImage {
  manifest: Blob;
  config: Blob;
  layers: Blob[];
  diffIds: string[];
}

export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

export function blobOf(content: Uint8Array | object, mediaType: string): Blob {
  const bytes = Buffer.from(
    content instanceof Uint8Array ? content : Buffer.from(JSON.stringify(content)),
  );
  return { bytes, digest: digestOf(bytes), mediaType };
}

export function descriptor(blob: Blob, more: object = {}): object {
  return { mediaType: blob.mediaType, digest: blob.digest, size: blob.bytes.length, ...more };
}

export type TarFile = [name: string, content: Uint8Array | string | { symlink: string }];

export async function tarOf(files: readonly TarFile[]): Promise<Buffer> {
  const archive = pack();
  for (const [name, content] of files) {
    if (typeof content === 'object' && 'symlink' in content) {
      archive.entry({ name, type: 'symlink', linkname: content.symlink });
    } else {
      archive.entry({ name, mtime: new Date(0) }, content);
    }
  }
  archive.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of archive) chunks.push(Buffer.from(chunk as Uint8Array));
  return Buffer.concat(chunks);
}

export interface FixtureOptions {
  layers?: number;
  layerBytes?: number;
  architecture?: string;
  config?: object;
  manifest?: object;
}

/** Layers of random bytes, so that gzip leaves them as large as they are. */
export async function makeImage(options: FixtureOptions = {}): Promise<FixtureImage> {
  const { layers: count = 2, layerBytes = 50_000, architecture = 'amd64' } = options;
  const tars = await Promise.all(
    Array.from({ length: count }, (_, n) => tarOf([[`file-${n}`, randomBytes(layerBytes)]])),
  );
  const layers = tars.map((tar, n) =>
    n % 2 === 0 ? blobOf(gzipSync(tar), OCI.gzip) : blobOf(tar, OCI.layer),
  );
  const diffIds = tars.map(digestOf);
  const config = blobOf(
    { os: 'linux', architecture, rootfs: { type: 'layers', diff_ids: diffIds }, ...options.config },
    OCI.config,
  );
  const manifest = blobOf(
    {
      schemaVersion: 2,
      mediaType: OCI.manifest,
      config: descriptor(config),
      layers: layers.map((layer) => descriptor(layer)),
      ...options.manifest,
    },
    OCI.manifest,
  );
  return { manifest, config, layers, diffIds };
}

/** An index with the platform of each image. */
export function makeIndex(entries: readonly [Blob, object | undefined][]): Blob {
  const manifests = entries.map(([blob, platform]) =>
    descriptor(blob, platform === undefined ? {} : { platform }),
  );
  return blobOf({ schemaVersion: 2, mediaType: OCI.index, manifests }, OCI.index);
}
