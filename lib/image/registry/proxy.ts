/**
 * Which proxy a request goes through, by the variables and the rules of Docker (Go's `httpproxy`):
 * `HTTPS_PROXY` and `HTTP_PROXY` by the scheme that is asked for, `NO_PROXY` for what goes directly,
 * and the addresses of this host itself always do.
 */
import { BlockList, isIP } from 'node:net';
import { ImageError } from '../../errors.js';

export type Environment = Readonly<Record<string, string | undefined>>;

const DEFAULT_PORTS: Readonly<Record<string, string>> = { 'http:': '80', 'https:': '443' };

/** Of 127.0.0.0/8, ::1 and localhost, to which nobody but this host can listen. */
export function isLoopback(hostname: string): boolean {
  const name = hostname.toLowerCase();
  return name === 'localhost' || name === '[::1]' || /^127(\.\d{1,3}){3}$/.test(name);
}

/** Undefined: none. `option` stands in for the environment; false is "never". */
export function proxyFor(
  url: URL,
  option: string | false | undefined,
  environment: Environment,
): URL | undefined {
  if (option === false || isLoopback(url.hostname)) return undefined;
  if (option !== undefined) return parseProxy(option, 'the option "proxy"');
  const [name, text] = proxyVariable(url.protocol, environment);
  if (text === '' || isExempt(url, variable(environment, 'NO_PROXY')[1])) return undefined;
  return parseProxy(text, name);
}

/** `proxy.example:3128`, or an address with a scheme and perhaps credentials. */
function parseProxy(text: string, from: string): URL {
  const address = /^[a-z][a-z\d+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  const url = URL.canParse(address) ? new URL(address) : undefined;
  if (url !== undefined && /^https?:$/.test(url.protocol) && url.hostname !== '') return url;
  // Without its text: there may be a password in it.
  throw new ImageError(
    'ERR_REGISTRY_UNAVAILABLE',
    `${from} has no address of an HTTP proxy: write http://proxy.example:3128`,
    { context: { proxy: from } },
  );
}

function proxyVariable(protocol: string, environment: Environment): [string, string] {
  if (protocol === 'https:') return variable(environment, 'HTTPS_PROXY');
  // In a CGI program, whoever sends a header "Proxy" chooses the one in upper case.
  const isCgi = environment.REQUEST_METHOD !== undefined;
  return isCgi ? ['http_proxy', environment.http_proxy ?? ''] : variable(environment, 'HTTP_PROXY');
}

/** In upper case first, as in Go. */
function variable(environment: Environment, name: string): [string, string] {
  for (const each of [name, name.toLowerCase()]) {
    const text = environment[each]?.trim() ?? '';
    if (text !== '') return [each, text];
  }
  return [name, ''];
}

function isExempt(url: URL, list: string): boolean {
  const host = url.hostname.replace(/^\[|\]$/g, '').toLowerCase();
  const port = url.port || (DEFAULT_PORTS[url.protocol] ?? '');
  return list.split(',').some((text) => {
    const entry = text.trim().toLowerCase();
    return (
      entry === '*' || (entry !== '' && (isInRange(host, entry) || isNamed(host, port, entry)))
    );
  });
}

/** Of `10.0.0.0/8`. */
function isInRange(host: string, entry: string): boolean {
  const family = isIP(host);
  const [network = '', bits = ''] = entry.split('/');
  if (family === 0 || isIP(network) !== family || !/^\d{1,3}$/.test(bits)) return false;
  if (Number(bits) > (family === 4 ? 32 : 128)) return false;
  const type = family === 4 ? 'ipv4' : 'ipv6';
  const range = new BlockList();
  range.addSubnet(network, Number(bits), type);
  return range.check(host, type);
}

/** `example.com` is this host and those below it, `.example.com` only those below it. */
function isNamed(host: string, port: string, entry: string): boolean {
  const [, withPort, ofPort] = /^(\[[^\]]+\]|[^:]+):(\d+)$/.exec(entry) ?? [];
  if (ofPort !== undefined && ofPort !== port) return false;
  const name = (withPort ?? entry).replace(/^\[|\]$/g, '').replace(/^\*(?=\.)/, '');
  if (isIP(host) !== 0 || isIP(name) !== 0) return host === name;
  return name.startsWith('.') ? host.endsWith(name) : host === name || host.endsWith(`.${name}`);
}
