import { afterEach, describe, expect, it, vi } from 'vitest';
import type { RegistryOptions } from '../../lib/config/registry.js';
import { proxyFor } from '../../lib/image/registry/proxy.js';
import { RegistrySource } from '../../lib/image/sources/registry.js';
import { makeImage } from '../helpers/image-fixture.js';
import { LoopbackProxy } from '../helpers/loopback-proxy.js';
import { fetchLayers, useRegistries } from '../helpers/loopback-registry.js';
import { rejection } from '../helpers/rejection.js';
import { selfSigned } from '../helpers/self-signed.js';

const proxyOf = (url: string, environment: Record<string, string>): string | undefined =>
  proxyFor(new URL(url), undefined, environment)?.href;

describe('the proxy of a request', () => {
  it.each<[string, Record<string, string>, string | undefined]>([
    ['https://a.example', {}, undefined],
    ['https://a.example', { HTTPS_PROXY: 'http://p:1' }, 'http://p:1/'],
    ['https://a.example', { https_proxy: 'p:1' }, 'http://p:1/'],
    ['https://a.example', { HTTPS_PROXY: 'http://p:1', https_proxy: 'http://q:2' }, 'http://p:1/'],
    ['https://a.example', { HTTPS_PROXY: ' ', https_proxy: 'http://q:2' }, 'http://q:2/'],
    ['https://a.example', { HTTP_PROXY: 'http://p:1' }, undefined],
    ['http://a.example', { HTTP_PROXY: 'https://p' }, 'https://p/'],
    ['http://a.example', { HTTPS_PROXY: 'http://p:1' }, undefined],
    ['http://a.example', { HTTP_PROXY: 'http://p:1', REQUEST_METHOD: 'GET' }, undefined],
    ['http://a.example', { http_proxy: 'http://p:1', REQUEST_METHOD: 'GET' }, 'http://p:1/'],
    ['http://localhost:5000', { HTTP_PROXY: 'http://p:1' }, undefined],
    ['http://127.1.2.3', { HTTP_PROXY: 'http://p:1' }, undefined],
    ['http://[::1]:80', { HTTP_PROXY: 'http://p:1' }, undefined],
  ])('to %s with %o is %s', (url, environment, expected) => {
    expect(proxyOf(url, environment)).toBe(expected);
  });

  it.each<[string, string, boolean]>([
    ['https://a.example', '*', true],
    ['https://a.example', 'b.example, a.example', true],
    ['https://A.Example', 'a.EXAMPLE', true],
    ['https://sub.a.example', 'a.example', true],
    ['https://sub.a.example', '.a.example', true],
    ['https://sub.a.example', '*.a.example', true],
    ['https://a.example', '.a.example', false],
    ['https://ba.example', 'a.example', false],
    ['https://a.example', 'a.example:443', true],
    ['http://a.example', 'a.example:443', false],
    ['https://a.example:5000', 'a.example:5000', true],
    ['https://a.example:5000', 'a.example:5001', false],
    ['https://10.1.2.3', '10.0.0.0/8', true],
    ['https://11.1.2.3', '10.0.0.0/8', false],
    ['https://10.1.2.3', '10.0.0.0/40', false],
    ['https://10.1.2.3', '10.1.2.3', true],
    ['https://10.1.2.3:81', '10.1.2.3:81', true],
    ['https://10.1.2.3', '2.3', false],
    ['https://[fd00::5]', 'fd00::/8', true],
    ['https://[fd00::5]', 'fd00::5', true],
    ['https://[fd00::5]:81', '[fd00::5]:81', true],
    ['https://a.example', ',, ,', false],
    ['https://a.example', '10.0.0.0/8', false],
  ])('to %s with NO_PROXY=%s: direct is %s', (url, list, direct) => {
    const found = proxyOf(url, {
      HTTPS_PROXY: 'http://p:1',
      HTTP_PROXY: 'http://p:1',
      NO_PROXY: list,
    });
    expect(found).toBe(direct ? undefined : 'http://p:1/');
  });

  it('is that of the options, when they have one', () => {
    const environment = { HTTPS_PROXY: 'http://p:1', NO_PROXY: '*' };
    const url = new URL('https://a.example');
    expect(proxyFor(url, 'http://q:2', environment)?.href).toBe('http://q:2/');
    expect(proxyFor(url, false, { HTTPS_PROXY: 'http://p:1' })).toBeUndefined();
    expect(proxyFor(new URL('http://127.0.0.1'), 'http://q:2', {})).toBeUndefined();
  });

  it.each(['ftp://p', 'http://', 'socks5://p:1', 'http://p:99999', 'http://ada:secret@'])(
    '%s is none',
    async (text) => {
      const attempt = async (): Promise<unknown> =>
        proxyOf('https://a.example', { HTTPS_PROXY: text });
      const error = await rejection(attempt());
      expect(error.code).toBe('ERR_REGISTRY_UNAVAILABLE');
      expect(error.message).toContain('HTTPS_PROXY');
      expect(error.message).not.toContain('secret');
    },
  );
});

describe('an image that comes through a proxy', () => {
  const start = useRegistries();
  const proxies: LoopbackProxy[] = [];
  afterEach(async () => {
    vi.unstubAllEnvs();
    for (const proxy of proxies.splice(0)) await proxy.close();
  });

  /** Nobody resolves `registry.example` but the proxy. */
  async function behindProxy(tls?: { key: string; cert: string }) {
    const registry = await start(tls);
    const image = await makeImage();
    registry.addImage('app', '1', image);
    const proxy = await new LoopbackProxy(registry.host).listen();
    proxies.push(proxy);
    return { registry, image, proxy };
  }

  async function pull(options: RegistryOptions): Promise<string[]> {
    const source = new RegistrySource('registry.example:5000/app:1', {
      auth: { username: 'ada', password: 'secret' },
      registry: { dockerConfig: false, retries: 0, ...options },
    });
    return fetchLayers(source);
  }

  const plain = { 'registry.example:5000': { insecure: true } };

  it('without TLS is asked for by its whole address', async () => {
    const { image, proxy, registry } = await behindProxy();
    vi.stubEnv('HTTP_PROXY', `http://${proxy.host}`);
    expect(await pull({ registries: plain })).toEqual(image.layers.map(({ digest }) => digest));
    expect(proxy.requests).toHaveLength(registry.hits.length);
    expect(proxy.requests[0]).toBe('GET http://registry.example:5000/v2/app/manifests/1');
    expect(registry.hits[0]?.headers.host).toBe('registry.example:5000');
  });

  it('with TLS is read by nobody on the way', async () => {
    const { key, cert } = selfSigned('registry.example');
    const { image, proxy } = await behindProxy({ key, cert });
    vi.stubEnv('HTTPS_PROXY', `http://${proxy.host}`);
    const registries = { 'registry.example:5000': { ca: cert } };
    expect(await pull({ registries })).toEqual(image.layers.map(({ digest }) => digest));
    expect(new Set(proxy.requests)).toEqual(new Set(['CONNECT registry.example:5000']));
    const error = await rejection(pull({}));
    expect(error.message).toContain('not trusted');
  });

  it('has its own credentials, which the registry never sees', async () => {
    const { image, proxy, registry } = await behindProxy();
    proxy.account = 'way:through';
    const options = { registries: plain, proxy: `http://way:through@${proxy.host}` };
    expect(await pull(options)).toEqual(image.layers.map(({ digest }) => digest));
    expect(registry.hits.some(({ headers }) => headers['proxy-authorization'])).toBe(false);
  });

  it.each([
    ['with', 'https'],
    ['without', 'http'],
  ])('%s TLS says when the proxy refuses', async (_, scheme) => {
    const { proxy, registry } = await behindProxy();
    proxy.account = 'way:through';
    const registries = scheme === 'http' ? plain : {};
    const error = await rejection(pull({ registries, proxy: `http://ada:secret@${proxy.host}` }));
    expect(error.code).toBe('ERR_REGISTRY_UNAVAILABLE');
    expect(error.message).toMatch(/the proxy.* wants credentials/);
    expect(error.message).not.toContain('secret');
    expect(registry.hits).toEqual([]);
  });

  it('says when the proxy is down, and which it is', async () => {
    const { proxy } = await behindProxy();
    const { host } = proxy;
    await proxies.pop()?.close();
    const error = await rejection(pull({ registries: plain, proxy: `http://ada:secret@${host}` }));
    expect(error).toMatchObject({ code: 'ERR_REGISTRY_UNAVAILABLE', context: { proxy: host } });
    expect(error.message).toContain(`through the proxy ${host}`);
  });
});
