/** An image made of tar archives by a test, and a source that counts what is asked of it. */
import { execFileSync } from 'node:child_process';
import { gzipSync } from 'node:zlib';
import type {
  ImageContents,
  ImageSource,
  LayerCompression,
  LayerDescriptor,
  OpenBlobOptions,
} from '../../lib/image/source.js';
import { digestOf } from './image-fixture.js';

export interface MadeLayer extends LayerDescriptor {
  bytes: Buffer;
}

export function layerOf(tar: Buffer, compression: LayerCompression = 'gzip'): MadeLayer {
  const bytes = packed(tar, compression);
  return {
    bytes,
    digest: digestOf(bytes),
    size: bytes.length,
    mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
    compression,
    diffId: digestOf(tar),
  };
}

function packed(tar: Buffer, compression: LayerCompression): Buffer {
  if (compression === 'gzip') return gzipSync(tar);
  if (compression === 'none') return tar;
  return execFileSync('zstd', ['-q', '-c', '-19', '--long=23'], { input: tar, maxBuffer: 1e9 });
}

/** Gives what it was made of, in chunks; `spoil` may make something else of a blob. */
export class MadeSource implements ImageSource {
  /** Digests of blobs, as often as they were opened. */
  readonly opened: string[] = [];
  resolved = 0;
  closed = 0;
  spoil: ((bytes: Buffer, layer: LayerDescriptor) => Buffer) | undefined;
  /** Waits before each chunk. */
  pause: (() => Promise<void>) | undefined;
  readonly #layers: readonly MadeLayer[];
  readonly #config: object;

  constructor(layers: readonly MadeLayer[], config: object = {}) {
    this.#layers = layers;
    this.#config = config;
  }

  async resolve(): Promise<ImageContents> {
    this.resolved += 1;
    const config = Buffer.from(
      JSON.stringify({
        architecture: 'amd64',
        os: 'linux',
        config: this.#config,
        rootfs: { type: 'layers', diff_ids: this.#layers.map(({ diffId }) => diffId) },
      }),
    );
    const configDigest = digestOf(config);
    const manifest = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        config: {
          mediaType: 'application/vnd.oci.image.config.v1+json',
          digest: configDigest,
          size: config.length,
        },
        layers: this.#layers.map(({ mediaType, digest, size }) => ({ mediaType, digest, size })),
      }),
    );
    const manifestDigest = digestOf(manifest);
    return {
      reference: null,
      rootDigest: manifestDigest,
      manifestDigest,
      manifest,
      configDigest,
      config,
      layers: this.#layers.map(({ bytes: _bytes, ...layer }) => layer),
    };
  }

  async openBlob(
    layer: LayerDescriptor,
    { offset = 0 }: OpenBlobOptions,
  ): Promise<AsyncIterable<Uint8Array>> {
    this.opened.push(layer.digest);
    return this.#chunks(layer, offset);
  }

  async *#chunks(layer: LayerDescriptor, offset: number): AsyncGenerator<Uint8Array> {
    const made = this.#layers.find(({ digest }) => digest === layer.digest);
    if (made === undefined) throw new Error('no such blob');
    const bytes = this.spoil?.(made.bytes, layer) ?? made.bytes;
    for (let at = offset; at < bytes.length; at += 10_000) {
      await this.pause?.();
      yield bytes.subarray(at, at + 10_000);
    }
  }

  async close(): Promise<void> {
    this.closed += 1;
  }
}
