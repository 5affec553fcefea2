import type { ServerResponse } from 'node:http';
import { describe, expect, it } from 'vitest';
import type { LayerDescriptor } from '../../lib/image/source.js';
import { RegistrySource } from '../../lib/image/sources/registry.js';
import { makeImage } from '../helpers/image-fixture.js';
import { collect, useRegistries } from '../helpers/loopback-registry.js';
import { rejection } from '../helpers/rejection.js';

const start = useRegistries();
const SIZE = 300_000;

/** A registry whose one layer is what `misbehave` makes of it. */
async function withLayer(misbehave: (bytes: Buffer, count: number) => Behaviour) {
  const registry = await start();
  const image = await makeImage({ layers: 1, layerBytes: SIZE });
  registry.addImage('app', '1', image);
  const source = new RegistrySource(`${registry.host}/app:1`, {
    registry: { dockerConfig: false, retries: 2, retryDelayMs: 2 },
  });
  const [layer] = (await source.resolve({})).layers;
  const bytes = image.layers[0]?.bytes;
  if (layer === undefined || bytes === undefined) throw new Error('no layer');
  let count = 0;
  registry.misbehave = (request, response) => {
    count += 1;
    const range = request.headers.range;
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
    return misbehave(bytes, count)(response, from, request.headers['if-range']) ?? true;
  };
  const read = async (offset = 0): Promise<Buffer> => {
    try {
      return await collect(await source.openBlob(layer as LayerDescriptor, { offset }));
    } finally {
      await source.close();
    }
  };
  return { registry, bytes, read, size: bytes.length };
}

type Behaviour = (
  response: ServerResponse,
  from: number,
  ifRange?: string | string[],
) => // biome-ignore lint/suspicious/noConfusingVoidType: most do not say that they are done.
boolean | void;

/** Promises all and breaks off after `length` bytes. */
function breakOff(response: ServerResponse, bytes: Buffer, from: number, length: number): void {
  const rest = bytes.subarray(from);
  const range = `bytes ${from}-${bytes.length - 1}/${bytes.length}`;
  response.writeHead(from > 0 ? 206 : 200, {
    'content-length': rest.length,
    etag: '"one"',
    ...(from > 0 ? { 'content-range': range } : {}),
  });
  response.write(rest.subarray(0, length), () => response.destroy());
}

describe('a layer that comes in pieces', () => {
  it('is continued where it broke off, of the same version', async () => {
    const conditions: unknown[] = [];
    const { registry, bytes, read } = await withLayer((all, count) => (response, from, ifRange) => {
      conditions.push([from, ifRange]);
      if (count > 4) return false;
      return breakOff(response, all, from, 50_000);
    });
    expect((await read()).equals(bytes)).toBe(true);
    expect(registry.countOf(/blobs/)).toBe(1 + 5);
    expect(conditions.slice(1).every((pair) => (pair as unknown[])[1] === '"one"')).toBe(true);
    const offsets = conditions.map((pair) => (pair as number[])[0] ?? 0);
    expect(offsets).toEqual([...offsets].sort((a, b) => a - b));
    expect(offsets[1]).toBeGreaterThan(0);
  });

  it('is not read twice by a server that knows no ranges', async () => {
    const { bytes, read } = await withLayer((all, count) => (response) => {
      if (count === 1) breakOff(response, all, 0, 100_000);
      else response.writeHead(200, { 'content-length': all.length }).end(all);
    });
    expect((await read()).equals(bytes)).toBe(true);
  });

  it('is given up when nothing more comes', async () => {
    const { registry, read } = await withLayer((all) => (response, from) => {
      breakOff(response, all, from, from === 0 ? 1000 : 0);
    });
    expect((await rejection(read())).code).toBe('ERR_REGISTRY_UNAVAILABLE');
    expect(registry.countOf(/blobs/)).toBe(1 + 1 + 3);
  });

  it('is given up after a hundred pieces', async () => {
    const { registry, read } = await withLayer((all) => (response, from) => {
      breakOff(response, all, from, 10);
    });
    expect((await rejection(read())).code).toBe('ERR_REGISTRY_UNAVAILABLE');
    expect(registry.countOf(/blobs/)).toBe(1 + 101);
  });
});

describe('a layer that is not what its descriptor says', () => {
  it.each<[string, string, (bytes: Buffer) => Behaviour]>([
    [
      'other bytes',
      'ERR_IMAGE_DIGEST',
      (all) => (response) => void response.end(Buffer.alloc(all.length)),
    ],
    [
      'too long by its header',
      'ERR_IMAGE_SIZE',
      (all) => (response) => void response.end(Buffer.alloc(all.length + 1)),
    ],
    [
      'too long without a header',
      'ERR_IMAGE_SIZE',
      (all) => (response) => {
        response.write(all);
        response.end('more');
      },
    ],
    [
      'too short by its header',
      'ERR_IMAGE_SIZE',
      (all) => (response) => void response.end(all.subarray(1)),
    ],
    [
      'too short without a header, and nothing behind',
      'ERR_IMAGE_SIZE',
      (all) => (response, from) => {
        if (from > 0) return void response.writeHead(416).end();
        response.write(all.subarray(1000));
        response.end();
      },
    ],
    [
      'continued somewhere else',
      'ERR_REGISTRY_PROTOCOL',
      (all) => (response, from) => {
        if (from === 0) return breakOff(response, all, 0, 1000);
        const range = `bytes ${from - 1}-${all.length - 1}/${all.length}`;
        response.writeHead(206, { 'content-range': range }).end(all.subarray(from - 1));
      },
    ],
    [
      'continued without saying where',
      'ERR_REGISTRY_PROTOCOL',
      (all) => (response, from) => {
        if (from === 0) return breakOff(response, all, 0, 1000);
        response.writeHead(206).end(all.subarray(from));
      },
    ],
    [
      'continued by one of another length',
      'ERR_IMAGE_SIZE',
      (all) => (response, from) => {
        if (from === 0) return breakOff(response, all, 0, 1000);
        const range = `bytes ${from}-${all.length - 1}/${all.length + 5}`;
        response.writeHead(206, { 'content-range': range }).end(all.subarray(from));
      },
    ],
    [
      'continued with other bytes',
      'ERR_IMAGE_DIGEST',
      (all) => (response, from) => {
        if (from === 0) return breakOff(response, all, 0, 1000);
        const range = `bytes ${from}-${all.length - 1}/${all.length}`;
        response.writeHead(206, { 'content-range': range }).end(Buffer.alloc(all.length - from));
      },
    ],
    [
      'encoded on the way',
      'ERR_REGISTRY_PROTOCOL',
      (all) => (response) => void response.writeHead(200, { 'content-encoding': 'gzip' }).end(all),
    ],
    ['gone', 'ERR_IMAGE_NOT_FOUND', () => (response) => void response.writeHead(404).end()],
  ])('%s', async (_name, code, behave) => {
    const { read } = await withLayer((all) => behave(all));
    const error = await rejection(read());
    expect(error.code).toBe(code);
    expect(error.context.registry).toMatch(/^127/);
    expect(error.context.digest ?? error.context.expected).toMatch(/^sha256:/);
  });

  it('never gives out more bytes than there may be', async () => {
    const { registry } = await withLayer(() => () => false);
    const image = await makeImage({ layers: 1, layerBytes: 1000 });
    registry.addImage('app', '1', image);
    const source = new RegistrySource(`${registry.host}/app:1`, {
      registry: { dockerConfig: false },
    });
    const [layer] = (await source.resolve({})).layers;
    if (layer === undefined) throw new Error('no layer');
    registry.misbehave = (_request, response) => {
      response.write(Buffer.alloc(layer.size - 1));
      response.end(Buffer.alloc(1_000_000));
      return true;
    };
    let seen = 0;
    const reading = (async () => {
      for await (const chunk of await source.openBlob(layer, {})) seen += chunk.length;
    })();
    expect((await rejection(reading)).code).toBe('ERR_IMAGE_SIZE');
    expect(seen).toBeLessThanOrEqual(layer.size);
    await source.close();
  });
});
