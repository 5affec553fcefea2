/** The addresses that have the images of a registry: its mirrors, then itself. */
import type { RegistryHostOptions, ResolvedRegistryOptions } from '../../config/registry.js';
import { ImageError } from '../../errors.js';
import { apiHostOf } from '../reference.js';
import { isLoopback } from './proxy.js';

export interface Endpoint {
  /** The name under which there are credentials for it. */
  readonly registry: string;
  /** Ends with `/v2/`. */
  readonly base: URL;
  readonly ca: string | undefined;
  readonly auth: RegistryHostOptions['auth'];
  readonly isMirror: boolean;
}

function optionsOf(options: ResolvedRegistryOptions, name: string): RegistryHostOptions {
  return Object.hasOwn(options.registries, name) ? (options.registries[name] ?? {}) : {};
}

function schemeOf(host: string, { insecure, ca }: RegistryHostOptions): string {
  return (insecure ?? (isLoopback(host.replace(/:\d+$/, '')) && ca === undefined))
    ? 'http'
    : 'https';
}

function mirrorOf(text: string, options: ResolvedRegistryOptions): Endpoint {
  const name = text.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
  const own = optionsOf(options, name);
  const address = /^https?:\/\//.test(text) ? text : `${schemeOf(name, own)}://${text}`;
  return {
    registry: name,
    base: new URL('v2/', address.endsWith('/') ? address : `${address}/`),
    ca: own.ca,
    auth: own.auth,
    isMirror: true,
  };
}

export function endpointsOf(registry: string, options: ResolvedRegistryOptions): Endpoint[] {
  const own = optionsOf(options, registry);
  const host = apiHostOf(registry);
  const address = `${schemeOf(host, own)}://${host}/v2/`;
  // The grammar of names lets through hosts that are none, such as addresses with five numbers.
  if (!URL.canParse(address)) {
    throw new ImageError('ERR_IMAGE_REFERENCE', `"${registry}" is not a host`, {
      context: { registry },
    });
  }
  return [
    ...(own.mirrors ?? []).map((mirror) => mirrorOf(mirror, options)),
    {
      registry,
      base: new URL(address),
      ca: own.ca,
      auth: own.auth,
      isMirror: false,
    },
  ];
}
