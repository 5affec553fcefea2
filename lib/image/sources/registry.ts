/** An image of a registry, or of a mirror of it. */
import {
  parseRegistryOptions,
  type RegistryCredentials,
  type RegistryOptions,
} from '../../config/registry.js';
import { createError } from '../../errors.js';
import { resolveImage } from '../manifest.js';
import { DEFAULT_PLATFORM, parsePlatform } from '../manifest-platform.js';
import { type ImageReference, parseReference } from '../reference.js';
import { openBlobStream } from '../registry/blob-stream.js';
import { RegistryClient } from '../registry/client.js';
import { type Endpoint, endpointsOf } from '../registry/endpoint.js';
import { isWorthAnother } from '../registry/retry.js';
import type {
  ImageContents,
  ImageSource,
  LayerDescriptor,
  OpenBlobOptions,
  ResolveOptions,
} from '../source.js';

export interface RegistrySourceOptions {
  registry?: RegistryOptions | undefined;
  /** For the registry that the reference names, before all other credentials. */
  auth?: RegistryCredentials | undefined;
  /** Default `linux/amd64`; `linux/amd64/v3` takes images of a later instruction set, too. */
  platform?: string | undefined;
}

export class RegistrySource implements ImageSource {
  readonly #reference: ImageReference;
  readonly #platform: string | undefined;
  /** In the order in which they are asked; the one that had the image goes first. */
  #clients: RegistryClient[];

  constructor(reference: string | ImageReference, options: RegistrySourceOptions = {}) {
    this.#reference = typeof reference === 'string' ? parseReference(reference) : reference;
    this.#platform = options.platform;
    const resolved = parseRegistryOptions(options.registry);
    const withAuth = (endpoint: Endpoint): Endpoint =>
      endpoint.isMirror || options.auth === undefined
        ? endpoint
        : { ...endpoint, auth: options.auth };
    this.#clients = endpointsOf(this.#reference.registry, resolved).map(
      (endpoint) => new RegistryClient(withAuth(endpoint), this.#reference.repository, resolved),
    );
  }

  async resolve({ signal }: ResolveOptions): Promise<ImageContents> {
    let failure: unknown = createError('ERR_INTERNAL', 'a registry without an address');
    for (const client of this.#clients) {
      try {
        const contents = await this.#resolveAt(client, signal);
        this.#clients = [client, ...this.#clients.filter((other) => other !== client)];
        return contents;
      } catch (error) {
        failure = error;
        if (!isWorthAnother(error)) break;
      }
    }
    throw failure;
  }

  async #resolveAt(client: RegistryClient, signal?: AbortSignal): Promise<ImageContents> {
    const { registry, repository, tag, digest, canonical } = this.#reference;
    const root = await client.readManifest(digest ?? tag ?? '', signal);
    return resolveImage({
      root,
      rootDigest: digest ?? undefined,
      platform: this.#platform === undefined ? DEFAULT_PLATFORM : parsePlatform(this.#platform),
      name: `${registry}/${repository}`,
      reference: canonical,
      context: { registry, repository },
      reader: {
        readManifest: async (entry) => (await client.readManifest(entry.digest, signal)).bytes,
        readConfig: (config) => client.readBlob(config.digest, config.size, signal),
      },
    });
  }

  async openBlob(
    layer: LayerDescriptor,
    { offset = 0, signal }: OpenBlobOptions,
  ): Promise<AsyncIterable<Uint8Array>> {
    return openBlobStream(this.#clients, layer, offset, signal);
  }

  async close(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close()));
  }
}
