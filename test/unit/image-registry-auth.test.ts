import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import type { RegistryOptions } from '../../lib/config/registry.js';
import { parseRegistryOptions } from '../../lib/config/registry.js';
import { findCredentials } from '../../lib/image/registry/docker-config.js';
import { endpointsOf } from '../../lib/image/registry/endpoint.js';
import { RegistrySource } from '../../lib/image/sources/registry.js';
import { useDirectory } from '../helpers/directory.js';
import { digestOf, type FixtureImage, makeImage } from '../helpers/image-fixture.js';
import {
  collect,
  fetchLayers,
  type LoopbackRegistry,
  useRegistries,
} from '../helpers/loopback-registry.js';
import { rejection, thrown } from '../helpers/rejection.js';

const start = useRegistries();
const directory = useDirectory();
const quick: RegistryOptions = { dockerConfig: false, retries: 2, retryDelayMs: 2 };
const user = { username: 'ada', password: 'pa:ss' };
const basic = `Basic ${Buffer.from('ada:pa:ss').toString('base64')}`;

const { env } = process;
const { PATH } = env;
afterEach(() => {
  env.PATH = PATH;
  delete env.DOCKER_CONFIG;
});

async function withImage(): Promise<{ registry: LoopbackRegistry; image: FixtureImage }> {
  const registry = await start();
  const image = await makeImage();
  registry.addImage('team/app', '1', image);
  return { registry, image };
}

interface TokenServer {
  tokens: LoopbackRegistry;
  /** Tokens that are good; the first of them is what is given out next. */
  good: string[];
}

/** Makes the registry want tokens of another server. */
async function protect(registry: LoopbackRegistry, answer: object = {}): Promise<TokenServer> {
  const tokens = await start();
  const server: TokenServer = { tokens, good: ['t1'] };
  tokens.misbehave = (_request, response) => {
    response.end(JSON.stringify({ token: server.good[0], expires_in: 300, ...answer }));
    return true;
  };
  registry.misbehave = (request, response) => {
    const given = request.headers.authorization?.replace('Bearer ', '');
    if (given !== undefined && server.good.includes(given)) return false;
    const scope = 'repository:team/app:pull';
    response.writeHead(401, {
      'www-authenticate': `Bearer realm="${tokens.url}/token?x=1",service="reg",scope="${scope}"`,
    });
    response.end('{}');
    return true;
  };
  return server;
}

function sourceOf(registry: LoopbackRegistry, options: RegistryOptions = {}, auth?: typeof user) {
  const name = `${registry.host}/team/app:1`;
  return new RegistrySource(name, { registry: { ...quick, ...options }, auth });
}

describe('tokens', () => {
  it('are had without a name, once, and used for everything', async () => {
    const { registry, image } = await withImage();
    const { tokens } = await protect(registry);
    expect(await fetchLayers(sourceOf(registry))).toEqual(image.layers.map(({ digest }) => digest));
    expect(tokens.hits.map(({ path }) => path)).toEqual([
      '/token?x=1&service=reg&scope=repository%3Ateam%2Fapp%3Apull',
    ]);
    expect(tokens.hits[0]?.headers.authorization).toBeUndefined();
    const authorizations = registry.hits.map(({ headers }) => headers.authorization);
    expect(authorizations).toEqual([undefined, ...authorizations.slice(1).fill('Bearer t1')]);
  });

  it('are had with credentials, which the registry itself never sees', async () => {
    const { registry } = await withImage();
    const { tokens } = await protect(registry);
    await fetchLayers(sourceOf(registry, {}, user));
    expect(tokens.hits[0]?.headers.authorization).toBe(basic);
    expect(tokens.hits[0]?.path).toContain('account=ada');
    expect(registry.hits.some(({ headers }) => headers.authorization === basic)).toBe(false);
  });

  it('are renewed when they are refused, by many requests at once only once', async () => {
    const { registry, image } = await withImage();
    const server = await protect(registry);
    const source = sourceOf(registry);
    const { layers } = await source.resolve({});
    server.good = ['t2'];
    const again = Array.from({ length: 4 }, () => layers).flat();
    const digests = await Promise.all(
      again.map(async (layer) => digestOf(await collect(await source.openBlob(layer, {})))),
    );
    expect(new Set(digests)).toEqual(new Set(image.layers.map(({ digest }) => digest)));
    expect(server.tokens.hits).toHaveLength(2);
    await source.close();
  });

  it('are renewed before they expire', async () => {
    const { registry } = await withImage();
    const server = await protect(registry, { expires_in: 1e-6 });
    await fetchLayers(sourceOf(registry));
    expect(server.tokens.hits.length).toBeGreaterThan(2);
  });

  it('come of an identity token by OAuth2', async () => {
    const { registry } = await withImage();
    const { tokens } = await protect(registry, { token: undefined, access_token: 't1' });
    const config = join(await directory(), 'config.json');
    const entry = { identitytoken: 'refresh&me', auth: Buffer.from('x:').toString('base64') };
    await writeFile(config, JSON.stringify({ auths: { [registry.host]: entry } }));
    await fetchLayers(sourceOf(registry, { dockerConfig: config }));
    expect(tokens.hits[0]).toMatchObject({ method: 'POST' });
    expect(Object.fromEntries(new URLSearchParams(tokens.hits[0]?.body))).toEqual({
      grant_type: 'refresh_token',
      client_id: 'embervm',
      scope: 'repository:team/app:pull',
      refresh_token: 'refresh&me',
      service: 'reg',
    });
  });

  it.each<[string, string, number, string]>([
    ['a refusal', 'ERR_IMAGE_AUTH', 401, '{}'],
    ['trouble', 'ERR_REGISTRY_UNAVAILABLE', 500, '{}'],
    ['a page', 'ERR_IMAGE_INVALID', 200, '<html>'],
    ['no token', 'ERR_REGISTRY_PROTOCOL', 200, '{}'],
    ['a token that is none', 'ERR_REGISTRY_PROTOCOL', 200, '{"token":"a\\r\\nb: c"}'],
    ['a huge answer', 'ERR_REGISTRY_PROTOCOL', 200, ' '.repeat(300_000)],
    ['a token that the registry refuses', 'ERR_IMAGE_AUTH', 200, '{"token":"other"}'],
  ])('fail by %s', async (_name, code, status, body) => {
    const { registry } = await withImage();
    const { tokens } = await protect(registry);
    tokens.misbehave = (_request, response) => {
      response.writeHead(status).end(body);
      return true;
    };
    const error = await rejection(fetchLayers(sourceOf(registry, {}, user)));
    expect(error.code).toBe(code);
    expect(JSON.stringify([error.message, error.context])).not.toContain('pa:ss');
    expect(tokens.hits.length).toBe(status === 500 ? 3 : 1);
  });

  it('are not asked for at an address that is none, or has no TLS where the registry has', async () => {
    const { registry } = await withImage();
    for (const realm of ['', '/token', 'ftp://a/', 'http://u:p@127.0.0.1:1/']) {
      registry.misbehave = (_request, response) => {
        response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}"` }).end();
        return true;
      };
      const error = await rejection(fetchLayers(sourceOf(registry, {}, user)));
      expect(error.code).toBe('ERR_REGISTRY_PROTOCOL');
    }
  });
});

describe('basic authentication', () => {
  it('answers a challenge, and is not offered before', async () => {
    const { registry, image } = await withImage();
    registry.misbehave = (request, response) => {
      if (request.headers.authorization === basic) return false;
      response.writeHead(401, { 'www-authenticate': 'Basic realm="r"' }).end();
      return true;
    };
    expect(await fetchLayers(sourceOf(registry, {}, user))).toHaveLength(image.layers.length);
    expect(registry.hits[0]?.headers.authorization).toBeUndefined();
    const wrong = { username: 'ada', password: 'other' };
    const refused = await rejection(fetchLayers(sourceOf(registry, {}, wrong)));
    expect(refused).toMatchObject({ code: 'ERR_IMAGE_AUTH' });
    expect(refused.message).toContain('refuses');
    const anonymous = await rejection(fetchLayers(sourceOf(registry)));
    expect(anonymous.message).toContain('wants credentials');
  });

  it('also comes from the options of the registry', async () => {
    const { registry } = await withImage();
    registry.misbehave = (request, response) => {
      if (request.headers.authorization === basic) return false;
      response.writeHead(401, { 'www-authenticate': 'Basic' }).end();
      return true;
    };
    await fetchLayers(sourceOf(registry, { registries: { [registry.host]: { auth: user } } }));
  });
});

describe('redirects', () => {
  it('do not carry credentials to another origin, nor back', async () => {
    const { registry, image } = await withImage();
    const storage = await start();
    storage.addImage('team/app', '1', image);
    await protect(registry);
    const inner = registry.misbehave;
    registry.misbehave = async (request, response, hit) => {
      if (hit.path.startsWith('/back')) {
        registry.serve(hit.path.replace('/back', ''), undefined, response);
        return true;
      }
      if (await inner(request, response, hit)) return true;
      if (!hit.path.includes('/blobs/')) return false;
      response.writeHead(307, { location: `${storage.url}${hit.path}?signed=1` }).end();
      return true;
    };
    storage.misbehave = (request, response, hit) => {
      const path = hit.path.replace('?signed=1', '');
      const blob = image.layers[0]?.digest ?? '';
      if (path.includes(blob)) {
        response.writeHead(302, { location: `${registry.url}/back${path}` }).end();
      } else storage.serve(path, request.headers.range, response);
      return true;
    };
    expect(await fetchLayers(sourceOf(registry, {}, user))).toHaveLength(2);
    expect(storage.hits.length).toBe(3);
    expect(storage.hits.every(({ headers }) => headers.authorization === undefined)).toBe(true);
    const back = registry.hits.filter(({ path }) => path.startsWith('/back'));
    expect(back).toHaveLength(1);
    expect(back[0]?.headers.authorization).toBeUndefined();
  });

  it('keep them within the origin', async () => {
    const { registry } = await withImage();
    await protect(registry);
    const inner = registry.misbehave;
    registry.misbehave = async (request, response, hit) => {
      if (await inner(request, response, hit)) return true;
      if (hit.path.includes('moved')) {
        registry.serve(hit.path.replace('moved/', ''), undefined, response);
      } else {
        response.writeHead(308, { location: hit.path.replace('/v2/', '/v2/moved/') }).end();
      }
      return true;
    };
    expect(await fetchLayers(sourceOf(registry))).toHaveLength(2);
  });

  it.each([
    ['/v2/team/app/manifests/1', /more than 5 times/],
    ['http://[', /no address/],
    ['ftp://127.0.0.1/', /without TLS/],
    ['file:///etc/passwd', /without TLS/],
    ['http://a:b@127.0.0.1/', /credentials/],
  ])('to %s are refused', async (location, why) => {
    const { registry } = await withImage();
    registry.misbehave = (_request, response) => {
      response.writeHead(302, { location }).end();
      return true;
    };
    const error = await rejection(fetchLayers(sourceOf(registry)));
    expect(error.code).toBe('ERR_REGISTRY_PROTOCOL');
    expect(error.message).toMatch(why);
    expect(registry.hits.length).toBeLessThanOrEqual(6);
  });

  it('to a storage that refuses an old link are asked for again', async () => {
    const { registry, image } = await withImage();
    const storage = await start();
    storage.addImage('team/app', '1', image);
    let refused = 0;
    storage.misbehave = (_request, response) => {
      refused += 1;
      if (refused > 1) return false;
      response.writeHead(403).end();
      return true;
    };
    registry.misbehave = (_request, response, { path }) => {
      response.writeHead(307, { location: storage.url + path }).end();
      return true;
    };
    expect(await fetchLayers(sourceOf(registry))).toHaveLength(2);
  });
});

describe('mirrors', () => {
  it('are asked first, with no credentials of the registry; the registry when they fail', async () => {
    const { registry, image } = await withImage();
    const mirrors = await Promise.all([start(), start(), start()]);
    const [broken, empty, good] = mirrors;
    broken.misbehave = (request) => {
      request.socket.destroy();
      return true;
    };
    good.addImage('team/app', '1', image);
    await protect(registry);
    const options = { registries: { [registry.host]: { mirrors: mirrors.map((m) => m.url) } } };
    expect(await fetchLayers(sourceOf(registry, options, user))).toHaveLength(2);
    expect([broken.hits.length, empty.hits.length, registry.hits.length]).toEqual([2, 1, 0]);
    good.documents.clear();
    expect(await fetchLayers(sourceOf(registry, options, user))).toHaveLength(2);
    const seen = mirrors.flatMap(({ hits }) => hits.map(({ headers }) => headers.authorization));
    expect(new Set(seen)).toEqual(new Set([undefined]));
  });

  it('that end in the middle are followed by the registry', async () => {
    const { registry, image } = await withImage();
    const mirror = await start();
    mirror.addImage('team/app', '1', image);
    mirror.misbehave = (_request, response, { path }) => {
      if (!image.layers.some(({ digest }) => path.includes(digest))) return false;
      if (mirror.countOf(/blobs/) > 3) {
        response.writeHead(500).end();
        return true;
      }
      const blob = mirror.documents.get(path.slice(4).replace('blobs/', ''));
      if (blob === undefined) return false;
      response.writeHead(200, { 'content-length': blob.bytes.length, etag: '"mirror"' });
      response.write(blob.bytes.subarray(0, 5000), () => response.destroy());
      return true;
    };
    const options = { registries: { [registry.host]: { mirrors: [mirror.url] } } };
    expect(await fetchLayers(sourceOf(registry, options))).toEqual(
      image.layers.map((l) => l.digest),
    );
    // An entity tag of the mirror means nothing to the registry.
    expect(registry.hits.some(({ headers }) => headers['if-range'] !== undefined)).toBe(false);
    expect(registry.hits.some(({ headers }) => headers.range !== undefined)).toBe(true);
  });

  it('stand for the default registry, also below a path', async () => {
    const mirror = await start();
    const image = await makeImage();
    mirror.addImage('hub/library/python', '3', image);
    mirror.misbehave = (_request, response, { path }) => {
      mirror.serve(path.replace('/cache/v2/', '/v2/hub/'), undefined, response);
      return true;
    };
    const registries = { 'docker.io': { mirrors: [`${mirror.url}/cache`] } };
    const source = new RegistrySource('python:3', { registry: { ...quick, registries } });
    const contents = await source.resolve({});
    expect(contents.reference).toBe('docker.io/library/python:3');
    expect(mirror.hits[0]?.path).toBe('/cache/v2/library/python/manifests/3');
    await source.close();
  });
});

describe('addresses', () => {
  const addresses = (registry: string, options: RegistryOptions = {}): string[] =>
    endpointsOf(registry, parseRegistryOptions(options)).map(({ base }) => base.href);
  const ca = '-----BEGIN CERTIFICATE-----';

  it('are HTTPS, but for loopback and where it is said', () => {
    expect(addresses('docker.io')).toEqual(['https://registry-1.docker.io/v2/']);
    expect(addresses('r.example:5000')).toEqual(['https://r.example:5000/v2/']);
    expect(addresses('localhost:5000')).toEqual(['http://localhost:5000/v2/']);
    expect(addresses('127.9.9.9')).toEqual(['http://127.9.9.9/v2/']);
    expect(addresses('[::1]:5000')).toEqual(['http://[::1]:5000/v2/']);
    expect(addresses('127.evil.example')).toEqual(['https://127.evil.example/v2/']);
    expect(addresses('localhost', { registries: { localhost: { ca } } })).toEqual([
      'https://localhost/v2/',
    ]);
    expect(addresses('localhost', { registries: { localhost: { insecure: false } } })).toEqual([
      'https://localhost/v2/',
    ]);
    const own = { 'r.example': { insecure: true, mirrors: ['m.example', 'http://n:1/x'] } };
    expect(addresses('r.example', { registries: own })).toEqual([
      'https://m.example/v2/',
      'http://n:1/x/v2/',
      'http://r.example/v2/',
    ]);
  });

  it('that cannot be are refused', () => {
    expect(thrown(() => addresses('1.2.3.4.5')).code).toBe('ERR_IMAGE_REFERENCE');
    for (const mirror of ['', 'ftp://a', 'http://', 'http://u:p@a', 'a/b', 'http://a?b', 'a b']) {
      const options = { registries: { a: { mirrors: [mirror] } } };
      expect([mirror, thrown(() => addresses('a', options)).code]).toEqual([
        mirror,
        'ERR_INVALID_CONFIG',
      ]);
    }
    for (const options of [
      { retries: -1 },
      { idleTimeoutMs: 0 },
      { registries: { a: { ca: 'x' } } },
      { registries: { a: { auth: { username: 'a:b', password: '' } } } },
      { other: 1 },
    ]) {
      expect(thrown(() => parseRegistryOptions(options)).code).toBe('ERR_INVALID_CONFIG');
    }
  });
});

describe("Docker's configuration", () => {
  async function write(config: object | string): Promise<string> {
    const path = join(await directory(), 'config.json');
    await writeFile(path, typeof config === 'string' ? config : JSON.stringify(config));
    return path;
  }
  const auth = Buffer.from('ada:pa:ss').toString('base64');

  it.each([
    ['r.example', 'r.example'],
    ['r.example', 'https://r.example'],
    ['r.example', 'https://r.example/v1/'],
    ['r.example:5000', 'r.example:5000'],
    ['docker.io', 'https://index.docker.io/v1/'],
    ['docker.io', 'docker.io'],
    ['docker.io', 'index.docker.io'],
  ])('has the credentials of %s under %s', async (registry, key) => {
    const path = await write({ auths: { other: { auth }, [key]: { auth } } });
    expect(await findCredentials(registry, path)).toMatchObject(user);
    expect(await findCredentials('r.example:1', path)).toBeUndefined();
  });

  it('is where DOCKER_CONFIG says, and may be missing there only', async () => {
    const path = await write({ auths: { 'r.example': { username: 'ada', password: 'pa:ss' } } });
    env.DOCKER_CONFIG = join(path, '..');
    expect(await findCredentials('r.example', undefined)).toMatchObject(user);
    env.DOCKER_CONFIG = join(path, '../none');
    expect(await findCredentials('r.example', undefined)).toBeUndefined();
    const error = await rejection(findCredentials('r.example', join(path, '../none/config.json')));
    expect(error.code).toBe('ERR_REGISTRY_CREDENTIALS');
  });

  it.each<[string, object | string]>([
    ['no JSON', '{"auths": secret'],
    ['an array', '[]'],
    ['credentials that cannot be read', { auths: { 'r.example': { auth: 'secret' } } }],
    ['a helper that is a path', { credsStore: '../../bin/secret' }],
    ['a helper that is not installed', { credHelpers: { 'r.example': 'is-not-installed' } }],
  ])('that has %s is refused, without a word of what is in it', async (_name, config) => {
    const error = await rejection(findCredentials('r.example', await write(config)));
    expect(error.code).toBe('ERR_REGISTRY_CREDENTIALS');
    expect(`${error.message}${error.cause}`).not.toContain('secret');
  });

  /** Puts a helper on the path. */
  async function helper(name: string, script: string): Promise<string> {
    const bin = join(await directory(), 'bin');
    await mkdir(bin);
    const path = join(bin, `docker-credential-${name}`);
    await writeFile(path, `#!/bin/sh\n${script}\n`);
    await chmod(path, 0o755);
    env.PATH = `${bin}${delimiter}${PATH}`;
    return bin;
  }

  it('asks the helper of the registry, or that of all', async () => {
    const bin = await helper(
      'own',
      'test "$1" = get || exit 9\ncat > "$0.asked"\nprintf \'{"Username":"ada","Secret":"pa:ss"}\'',
    );
    const asked = (): Promise<string> => readFile(join(bin, 'docker-credential-own.asked'), 'utf8');
    const own = await write({ credsStore: 'none', credHelpers: { 'r.example:1': 'own' } });
    expect(await findCredentials('r.example:1', own)).toMatchObject(user);
    expect(await asked()).toBe('r.example:1');
    const all = await write({ credsStore: 'own', auths: { 'https://index.docker.io/v1/': {} } });
    expect(await findCredentials('docker.io', all)).toMatchObject(user);
    expect(await asked()).toBe('https://index.docker.io/v1/');
  });

  it('takes identity tokens of helpers', async () => {
    await helper('own', 'printf \'{"Username":"<token>","Secret":"abc"}\'');
    const found = await findCredentials('r.example', await write({ credsStore: 'own' }));
    expect(found).toMatchObject({ identityToken: 'abc' });
  });

  it('has none when the helper has none, and falls back to what is in the file', async () => {
    await helper('own', 'echo "credentials not found in native keychain"; exit 1');
    expect(await findCredentials('r.example', await write({ credsStore: 'own' }))).toBeUndefined();
    const both = await write({ credsStore: 'own', auths: { 'r.example': { auth } } });
    expect(await findCredentials('r.example', both)).toMatchObject(user);
  });

  it.each([
    ['echo secret; exit 3'],
    ['echo secret'],
    ['echo "[]"'],
    ['echo "{\\"Username\\":1,\\"Secret\\":\\"secret\\"}"'],
    ['head -c 3000000 /dev/zero'],
    ['kill -9 $$'],
  ])('says so when a helper fails: %s', async (script) => {
    await helper('own', script);
    const error = await rejection(findCredentials('r.example', await write({ credsStore: 'own' })));
    expect(error.code).toBe('ERR_REGISTRY_CREDENTIALS');
    expect(`${error.message}${error.cause}`).not.toContain('secret');
  });

  it('does not wait for a helper that hangs, once it is given up', async () => {
    await helper('own', 'exec sleep 30');
    const signal = AbortSignal.timeout(50);
    const path = await write({ credsStore: 'own' });
    expect((await rejection(findCredentials('r.example', path, signal))).code).toBe('ERR_ABORTED');
  });
});
