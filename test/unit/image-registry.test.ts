import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { RegistryOptions } from '../../lib/config/registry.js';
import { RegistrySource } from '../../lib/image/sources/registry.js';
import {
  blobOf,
  descriptor,
  digestOf,
  makeImage,
  makeIndex,
  OCI,
} from '../helpers/image-fixture.js';
import {
  collect,
  type LoopbackRegistry,
  type Misbehaviour,
  useRegistries,
} from '../helpers/loopback-registry.js';
import { rejection } from '../helpers/rejection.js';
import { selfSigned } from '../helpers/self-signed.js';

const start = useRegistries();
const quick: RegistryOptions = { dockerConfig: false, retries: 2, retryDelayMs: 5 };

function sourceOf(
  registry: LoopbackRegistry,
  name = 'app:1',
  options: RegistryOptions = {},
): RegistrySource {
  return new RegistrySource(`${registry.host}/${name}`, { registry: { ...quick, ...options } });
}

async function withImage(misbehave?: Misbehaviour) {
  const registry = await start();
  const image = await makeImage({ layers: 2, layerBytes: 200_000 });
  registry.addImage('app', '1', image);
  if (misbehave !== undefined) registry.misbehave = misbehave;
  return { registry, image };
}

/** Resolves, reads every layer, and closes. */
async function pull(source: RegistrySource) {
  try {
    const contents = await source.resolve({});
    const layers = await Promise.all(
      contents.layers.map(async (layer) => collect(await source.openBlob(layer, {}))),
    );
    return { contents, layers };
  } finally {
    await source.close();
  }
}

describe('an image of a registry', () => {
  it('comes with its exact documents and layers', async () => {
    const { registry, image } = await withImage();
    const { contents, layers } = await pull(sourceOf(registry));
    expect(contents).toMatchObject({
      manifestDigest: image.manifest.digest,
      rootDigest: image.manifest.digest,
      configDigest: image.config.digest,
      reference: `${registry.host}/app:1`,
    });
    expect(Buffer.from(contents.manifest)).toEqual(image.manifest.bytes);
    expect(Buffer.from(contents.config)).toEqual(image.config.bytes);
    expect(contents.layers.map(({ compression }) => compression)).toEqual(['gzip', 'none']);
    expect(contents.layers.map(({ diffId }) => diffId)).toEqual(image.diffIds);
    expect(layers.map(digestOf)).toEqual(image.layers.map(({ digest }) => digest));
    expect(registry.hits.every(({ headers }) => headers.authorization === undefined)).toBe(true);
  });

  it('is found by digest, and chosen by platform', async () => {
    const registry = await start();
    const wanted = await makeImage();
    const other = await makeImage({ architecture: 'arm64' });
    const v3 = await makeImage({ config: { variant: 'v3' } });
    for (const image of [wanted, other, v3]) registry.addImage('app', 'x', image);
    const index = makeIndex([
      [other.manifest, { os: 'linux', architecture: 'arm64' }],
      [blobOf({ a: 1 }, OCI.manifest), { os: 'unknown', architecture: 'unknown' }],
      [v3.manifest, { os: 'linux', architecture: 'amd64', variant: 'v3' }],
      [wanted.manifest, { os: 'linux', architecture: 'amd64' }],
    ]);
    registry.tag('app', '1', index);
    const contents = await sourceOf(registry, `app:1@${index.digest}`).resolve({});
    expect(contents.rootDigest).toBe(index.digest);
    expect(contents.manifestDigest).toBe(wanted.manifest.digest);
    const later = new RegistrySource(`${registry.host}/app:1`, {
      registry: quick,
      platform: 'linux/amd64/v4',
    });
    expect((await later.resolve({})).manifestDigest).toBe(v3.manifest.digest);
  });

  it('continues from an offset', async () => {
    const { registry, image } = await withImage();
    const source = sourceOf(registry);
    const [layer] = (await source.resolve({})).layers;
    if (layer === undefined) throw new Error('no layer');
    const rest = await collect(await source.openBlob(layer, { offset: 1000 }));
    expect(digestOf(rest)).toBe(
      digestOf(image.layers[0]?.bytes.subarray(1000) ?? rest.subarray(1)),
    );
    expect(registry.hits.at(-1)?.headers.range).toBe('bytes=1000-');
    await source.close();
  });
});

describe('documents that are not right', () => {
  it.each<[string, string, (registry: LoopbackRegistry) => Promise<void>]>([
    ['nothing there', 'ERR_IMAGE_NOT_FOUND', async () => {}],
    [
      'a manifest that is no JSON',
      'ERR_IMAGE_INVALID',
      async (r) => r.tag('app', '1', blobOf(Buffer.from('{'), OCI.manifest)),
    ],
    [
      'a login page',
      'ERR_IMAGE_MEDIA_TYPE',
      async (r) => r.tag('app', '1', blobOf(Buffer.from('<html>'), 'text/html')),
    ],
    [
      'a huge manifest',
      'ERR_IMAGE_LIMIT',
      async (r) => r.tag('app', '1', blobOf(Buffer.alloc(4 * 1024 * 1024 + 1, ' '), OCI.manifest)),
    ],
    [
      'an unknown manifest type',
      'ERR_IMAGE_MEDIA_TYPE',
      async (r) => r.tag('app', '1', blobOf({ layers: [] }, 'application/vnd.other.v1+json')),
    ],
    [
      'an artifact',
      'ERR_IMAGE_MEDIA_TYPE',
      async (r) => {
        const config = descriptor(blobOf({}, 'application/vnd.cncf.helm.config.v1+json'));
        r.addImage('app', '1', await makeImage({ manifest: { config } }));
      },
    ],
    [
      'a layer of an unknown type',
      'ERR_IMAGE_MEDIA_TYPE',
      async (r) => {
        const base = await makeImage({ layers: 1 });
        const layers = base.layers.map((l) => ({ ...descriptor(l), mediaType: 'a/b+encrypted' }));
        r.add('app', base.config);
        const content = { schemaVersion: 2, config: descriptor(base.config), layers };
        r.tag('app', '1', blobOf(content, OCI.manifest));
      },
    ],
    [
      'no image for this platform',
      'ERR_IMAGE_PLATFORM',
      async (r) => {
        const arm = await makeImage({ architecture: 'arm64' });
        r.tag('app', '1', makeIndex([[arm.manifest, { os: 'linux', architecture: 'arm64' }]]));
      },
    ],
    [
      'an image for another platform, which only its configuration tells',
      'ERR_IMAGE_PLATFORM',
      async (r) => r.addImage('app', '1', await makeImage({ architecture: 's390x' })),
    ],
    [
      'an index and an image at once',
      'ERR_IMAGE_INVALID',
      async (r) => r.addImage('app', '1', await makeImage({ manifest: { manifests: [] } })),
    ],
    [
      'a manifest announced as another type',
      'ERR_IMAGE_INVALID',
      async (r) => {
        const { manifest } = await makeImage();
        r.tag('app', '1', { ...manifest, mediaType: OCI.index });
      },
    ],
    [
      'more layers than there may be',
      'ERR_IMAGE_LIMIT',
      async (r) => r.addImage('app', '1', await makeImage({ layers: 129, layerBytes: 1 })),
    ],
    [
      'fewer diff IDs than layers',
      'ERR_IMAGE_INVALID',
      async (r) => {
        const config = { rootfs: { type: 'layers', diff_ids: [] } };
        r.addImage('app', '1', await makeImage({ config }));
      },
    ],
    [
      'a configuration without platform',
      'ERR_IMAGE_INVALID',
      async (r) => r.addImage('app', '1', await makeImage({ config: { os: 1 } })),
    ],
    [
      'a descriptor of negative length',
      'ERR_IMAGE_INVALID',
      async (r) => {
        const { config } = await makeImage();
        const manifest = { config: { ...descriptor(config), size: -1 } };
        r.addImage('app', '1', await makeImage({ manifest }));
      },
    ],
    [
      'a huge configuration',
      'ERR_IMAGE_LIMIT',
      async (r) => {
        const { config } = await makeImage();
        const manifest = { config: { ...descriptor(config), size: 8 * 1024 * 1024 + 1 } };
        r.addImage('app', '1', await makeImage({ manifest }));
      },
    ],
    [
      'a configuration of another digest',
      'ERR_IMAGE_DIGEST',
      async (r) => {
        const image = await makeImage();
        r.addImage('app', '1', image);
        const other = Buffer.alloc(image.config.bytes.length, 'x');
        r.documents.set(`app/${image.config.digest}`, { ...image.config, bytes: other });
      },
    ],
    [
      'a configuration of another length',
      'ERR_IMAGE_SIZE',
      async (r) => {
        const image = await makeImage();
        r.addImage('app', '1', image);
        const other = image.config.bytes.subarray(1);
        r.documents.set(`app/${image.config.digest}`, { ...image.config, bytes: other });
      },
    ],
    [
      'an index whose entry is itself, under a digest that lies',
      'ERR_IMAGE_SIZE',
      async (r) => {
        const child = blobOf({ a: 1 }, OCI.index);
        const index = makeIndex([[child, { os: 'linux', architecture: 'amd64' }]]);
        r.tag('app', '1', index);
        r.documents.set(`app/${child.digest}`, index);
      },
    ],
    [
      'indexes five deep',
      'ERR_IMAGE_LIMIT',
      async (r) => {
        let inner = (await makeImage()).manifest;
        for (let depth = 0; depth < 5; depth += 1) {
          inner = makeIndex([[inner, undefined]]);
          r.tag('app', '1', inner);
        }
      },
    ],
    [
      'an index that fans out',
      'ERR_IMAGE_LIMIT',
      async (r) => {
        const leaves = await Promise.all(
          Array.from({ length: 70 }, () => makeImage({ architecture: 'arm64', layers: 1 })),
        );
        for (const leaf of leaves) r.addImage('app', 'x', leaf);
        r.tag('app', '1', makeIndex(leaves.map((leaf) => [leaf.manifest, undefined])));
      },
    ],
  ])('%s', async (_name, code, prepare) => {
    const registry = await start();
    await prepare(registry);
    const error = await rejection(pull(sourceOf(registry)));
    expect(error.code).toBe(code);
    expect(error.context).toMatchObject({ registry: registry.host, repository: 'app' });
  });

  it('are looked at once, however often an index names them', async () => {
    const registry = await start();
    const arm = await makeImage({ architecture: 'arm64' });
    registry.addImage('app', 'x', arm);
    const again = Array.from(
      { length: 500 },
      () => [arm.manifest, undefined] as [never, undefined],
    );
    registry.tag('app', '1', makeIndex(again));
    expect((await rejection(pull(sourceOf(registry)))).code).toBe('ERR_IMAGE_PLATFORM');
    expect(registry.countOf(arm.manifest.digest)).toBe(1);
  });

  it('a manifest that is not that of its digest', async () => {
    const { registry, image } = await withImage();
    const other = await makeImage();
    registry.documents.set(`app/${image.manifest.digest}`, other.manifest);
    const error = await rejection(pull(sourceOf(registry, `app@${image.manifest.digest}`)));
    expect(error.code).toBe('ERR_IMAGE_DIGEST');
    expect(error.context).toMatchObject({ expected: image.manifest.digest });
  });
});

describe('a registry that is in trouble', () => {
  it.each<[string, string, number, Record<string, string>]>([
    ['500', 'ERR_REGISTRY_UNAVAILABLE', 3, {}],
    ['503', 'ERR_REGISTRY_UNAVAILABLE', 3, { 'retry-after': '0' }],
    ['429', 'ERR_REGISTRY_RATE_LIMIT', 3, {}],
    ['429', 'ERR_REGISTRY_RATE_LIMIT', 1, { 'retry-after': '3600' }],
    ['403', 'ERR_IMAGE_AUTH', 1, {}],
    ['401', 'ERR_IMAGE_AUTH', 1, {}],
    ['404', 'ERR_IMAGE_NOT_FOUND', 1, {}],
    ['418', 'ERR_REGISTRY_PROTOCOL', 1, {}],
    ['204', 'ERR_REGISTRY_PROTOCOL', 1, {}],
  ])('%s is %s after %i requests', async (status, code, requests, headers) => {
    const { registry } = await withImage((_request, response) => {
      response.writeHead(Number(status), headers);
      response.end(status === '204' ? '' : '{"errors":[{"code":"X","message":"why\\nnot"}]}');
      return true;
    });
    const error = await rejection(pull(sourceOf(registry)));
    expect(error.code).toBe(code);
    expect(error.context).toMatchObject({ registry: registry.host, tag: '1' });
    expect(error.message).not.toContain('\n');
    if (status !== '204') expect(error.message).toContain('X: why');
    expect(registry.hits).toHaveLength(requests);
  });

  it('is waited for as it asks', async () => {
    let refusals = 0;
    const { registry, image } = await withImage((_request, response) => {
      if (refusals > 0) return false;
      refusals += 1;
      response.writeHead(429, { 'retry-after': '1' }).end();
      return true;
    });
    const begun = performance.now();
    const { contents } = await pull(sourceOf(registry));
    expect(contents.manifestDigest).toBe(image.manifest.digest);
    expect(performance.now() - begun).toBeGreaterThan(990);
  });

  it('is tried again when it closes the connection', async () => {
    let resets = 0;
    const { registry, image } = await withImage((request) => {
      resets += 1;
      if (resets > 2) return false;
      request.socket.destroy();
      return true;
    });
    expect((await pull(sourceOf(registry))).contents.manifestDigest).toBe(image.manifest.digest);
  });

  it('is down', async () => {
    const { registry } = await withImage();
    const source = sourceOf(registry);
    const { host } = registry;
    await registry.close();
    const error = await rejection(pull(source));
    expect(error).toMatchObject({ code: 'ERR_REGISTRY_UNAVAILABLE' });
    expect(error.context).toMatchObject({ reason: 'ECONNREFUSED', registry: host });
    await registry.listen();
  });

  it('does not answer', async () => {
    const { registry } = await withImage(() => true);
    const source = sourceOf(registry, 'app:1', { headersTimeoutMs: 100, retries: 0 });
    const error = await rejection(pull(source));
    expect(error.code).toBe('ERR_REGISTRY_UNAVAILABLE');
    expect(error.context.reason).toBe('UND_ERR_HEADERS_TIMEOUT');
  });

  it('stops in the middle of a layer', async () => {
    const { registry } = await withImage((_request, response, { path }) => {
      if (!path.includes('/blobs/')) return false;
      const blob = registry.documents.get(path.replace('/v2/', '').replace('blobs/', ''));
      if (blob === undefined || blob.bytes.length < 1000) return false;
      response.writeHead(200, { 'content-length': blob.bytes.length });
      response.write(blob.bytes.subarray(0, 1000));
      return true;
    });
    const source = sourceOf(registry, 'app:1', { idleTimeoutMs: 100, retries: 0 });
    const error = await rejection(pull(source));
    expect(error.code).toBe('ERR_REGISTRY_UNAVAILABLE');
    expect(error.context.reason).toBe('UND_ERR_BODY_TIMEOUT');
  });

  it('speaks TLS where none is expected, and the other way round', async () => {
    const { registry } = await withImage();
    const options = { registries: { [registry.host]: { insecure: false } } };
    const error = await rejection(pull(sourceOf(registry, 'app:1', options)));
    expect(error.code).toBe('ERR_REGISTRY_PROTOCOL');
    expect(error.message).toContain('insecure');
    expect(registry.hits).toHaveLength(0);
  });

  it('can be given up', async () => {
    const { registry } = await withImage(() => true);
    const source = sourceOf(registry);
    const controller = new AbortController();
    const resolving = rejection(source.resolve({ signal: controller.signal }));
    await sleep(50);
    controller.abort(new Error('enough'));
    const error = await resolving;
    expect(error.code).toBe('ERR_ABORTED');
    expect(error.cause).toMatchObject({ message: 'enough' });
    const aborted = { signal: AbortSignal.abort() };
    expect((await rejection(source.resolve(aborted))).code).toBe('ERR_ABORTED');
    await source.close();
  });

  it('is let go of by close, whatever is under way', async () => {
    const { registry } = await withImage(() => true);
    const source = sourceOf(registry);
    const resolving = rejection(source.resolve({}));
    await sleep(50);
    await source.close();
    expect((await resolving).code).toBe('ERR_REGISTRY_UNAVAILABLE');
  });
});

describe('TLS', () => {
  it('trusts what is told for this registry, and nothing else', async () => {
    const { key, cert } = selfSigned();
    const registry = await start({ key, cert });
    const image = await makeImage();
    registry.addImage('app', '1', image);
    const options = { insecure: false };
    const untrusted = { registries: { [registry.host]: options } };
    const error = await rejection(pull(sourceOf(registry, 'app:1', untrusted)));
    expect(error.code).toBe('ERR_REGISTRY_UNAVAILABLE');
    expect(error.message).toContain('"ca"');
    const other = selfSigned().cert;
    const wrong = { registries: { [registry.host]: { ca: other } } };
    expect((await rejection(pull(sourceOf(registry, 'app:1', wrong)))).code).toBe(error.code);
    const trusted = { registries: { [registry.host]: { ca: cert } } };
    const { layers } = await pull(sourceOf(registry, 'app:1', trusted));
    expect(layers.map(digestOf)).toEqual(image.layers.map(({ digest }) => digest));
  });

  it('is not given up by a redirect', async () => {
    const { key, cert } = selfSigned();
    const registry = await start({ key, cert });
    registry.misbehave = (_request, response) => {
      response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end();
      return true;
    };
    const trusted = { registries: { [registry.host]: { ca: cert } } };
    const error = await rejection(pull(sourceOf(registry, 'app:1', trusted)));
    expect(error.code).toBe('ERR_REGISTRY_PROTOCOL');
    expect(error.message).toContain('without TLS');
    registry.misbehave = (_request, response) => {
      const challenge = 'Bearer realm="http://127.0.0.1:1/token"';
      response.writeHead(401, { 'www-authenticate': challenge }).end();
      return true;
    };
    const downgraded = await rejection(pull(sourceOf(registry, 'app:1', trusted)));
    expect(downgraded.message).toContain('no place to send credentials to');
  });
});
