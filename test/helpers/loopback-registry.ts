/** A registry on loopback that does what the test tells it to, the right thing by default. */
import { once } from 'node:events';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { afterEach } from 'vitest';
import type { ImageSource } from '../../lib/image/source.js';
import { type Blob, digestOf, type FixtureImage } from './image-fixture.js';

export interface Hit {
  method: string;
  path: string;
  headers: IncomingMessage['headers'];
  body: string;
}

/** Returns true when it has dealt with the request. */
export type Misbehaviour = (
  request: IncomingMessage,
  response: ServerResponse,
  hit: Hit,
) => boolean | Promise<boolean>;

export class LoopbackRegistry {
  readonly hits: Hit[] = [];
  readonly documents = new Map<string, Blob>();
  misbehave: Misbehaviour = () => false;
  readonly #server: ReturnType<typeof createServer>;
  readonly #scheme: string;

  constructor(tls?: { key: string; cert: string }) {
    const listener: RequestListener = (request, response) => void this.#handle(request, response);
    this.#server = tls === undefined ? createServer(listener) : createTlsServer(tls, listener);
    this.#scheme = tls === undefined ? 'http' : 'https';
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get url(): string {
    return `${this.#scheme}://${this.host}`;
  }

  async listen(): Promise<this> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return this;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }

  add(repository: string, ...blobs: Blob[]): void {
    for (const blob of blobs) {
      this.documents.set(`${repository}/${blob.digest}`, blob);
    }
  }

  tag(repository: string, tag: string, blob: Blob): void {
    this.add(repository, blob);
    this.documents.set(`${repository}/${tag}`, blob);
  }

  addImage(repository: string, tag: string, image: FixtureImage): void {
    this.add(repository, image.config, ...image.layers);
    this.tag(repository, tag, image.manifest);
  }

  countOf(path: string | RegExp): number {
    return this.hits.filter((hit) => hit.path.match(path) !== null).length;
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const { method = '', url = '', headers } = request;
    const hit = { method, path: url, headers, body: Buffer.concat(chunks).toString() };
    this.hits.push(hit);
    if (await this.misbehave(request, response, hit)) return;
    this.serve(url, headers.range, response);
  }

  serve(path: string, range: string | undefined, response: ServerResponse): void {
    const [, repository, kind, id] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/?]+)$/.exec(path) ?? [];
    const blob = this.documents.get(`${repository}/${id}`);
    if (blob === undefined) {
      response.writeHead(404, { 'content-type': 'application/json' });
      response.end('{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}');
      return;
    }
    const headers = {
      'content-type': kind === 'manifests' ? blob.mediaType : 'application/octet-stream',
      'docker-content-digest': blob.digest,
      etag: `"${blob.digest}"`,
    };
    const size = blob.bytes.length;
    const start = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
    if (start > 0 && start >= size) {
      response.writeHead(416, { 'content-range': `bytes */${size}` }).end();
      return;
    }
    const body = blob.bytes.subarray(start);
    const partial = { 'content-range': `bytes ${start}-${size - 1}/${size}` };
    response.writeHead(start > 0 ? 206 : 200, {
      ...headers,
      ...(start > 0 ? partial : {}),
      'content-length': body.length,
    });
    response.end(body);
  }
}

export function useRegistries(): (tls?: {
  key: string;
  cert: string;
}) => Promise<LoopbackRegistry> {
  const made: LoopbackRegistry[] = [];
  afterEach(async () => {
    for (const registry of made.splice(0)) await registry.close();
  });
  return async (tls) => {
    const registry = await new LoopbackRegistry(tls).listen();
    made.push(registry);
    return registry;
  };
}

export async function collect(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The digests of all layers as a source gives them, which is closed then. */
export async function fetchLayers(source: ImageSource): Promise<string[]> {
  try {
    const { layers } = await source.resolve({});
    const blobs = layers.map(async (layer) =>
      digestOf(await collect(await source.openBlob(layer, {}))),
    );
    return await Promise.all(blobs);
  } finally {
    await source.close();
  }
}
