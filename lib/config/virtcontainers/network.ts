/** Interfaces and routes of a sandbox of `embervm/virtcontainers`. */
import { isIP } from 'node:net';
import { nonEmptyText } from '../common.js';
import { parseConfig } from '../parse.js';
import * as z from '../zod.js';
import { nameOf } from './refused.js';

export interface IpAddress {
  family?: 'v4' | 'v6' | undefined;
  address: string;
  /** Length of the prefix. */
  mask: string;
}

/** A NIC, and how the guest is to set it up. */
export interface InterfaceConfig {
  /** On the host. */
  device: string;
  /** In the guest. */
  name: string;
  ipAddresses?: IpAddress[] | undefined;
  mtu?: number | undefined;
  /** Names the interface. */
  hwAddr: string;
  linkType: 'veth' | 'tap' | 'tuntap';
  rawFlags?: number | undefined;
}

export interface NetworkInterface {
  device: string;
  name: string;
  ipAddresses: { family: 'v4' | 'v6'; address: string; mask: string }[];
  mtu: number;
  hwAddr: string;
  linkType: 'veth' | 'tap' | 'tuntap';
  rawFlags: number;
}

export interface RouteConfig {
  /** A network such as `10.0.0.0/8`; empty: the default route. */
  dest: string;
  gateway?: string | undefined;
  device: string;
  source?: string | undefined;
  scope?: number | undefined;
}

export interface Route {
  dest: string;
  gateway: string;
  device: string;
  source: string;
  scope: number;
}

const DEFAULT_MTU = 1500;
const MIN_MTU = 68;
const MAX_MTU = 65_535;
const MAX_U32 = 2 ** 32 - 1;
/** IFNAMSIZ without the NUL. */
const MAX_NAME = 15;
const NOT_HOT = 'an interface of this kind cannot be added to a VM that runs';

const interfaceName = nonEmptyText.check(
  z.refine(
    (name) => name.length <= MAX_NAME && !/[/\s]/.test(name),
    `is no name of an interface: at most ${MAX_NAME} characters, no "/" and no spaces`,
  ),
);

const mac = z
  .pipe(
    z.string(),
    z.transform((text) => text.toLowerCase()),
  )
  .check(
    z.refine((text) => /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(text), 'is no MAC address'),
    z.refine((text) => (Number.parseInt(text, 16) & 1) === 0, 'is an address of a group'),
  );

const ipText = z.string().check(z.refine((text) => isIP(text) !== 0, 'is no IP address'));

const ipAddress = z
  .pipe(
    z.strictObject({
      family: z.optional(z.enum(['v4', 'v6'])),
      address: ipText,
      mask: z
        .string()
        .check(z.refine((text) => /^\d{1,3}$/.test(text), 'is no length of a prefix')),
    }),
    z.transform(({ family, ...rest }) => ({
      family: family ?? (isIP(rest.address) === 6 ? ('v6' as const) : ('v4' as const)),
      ...rest,
    })),
  )
  .check(
    z.refine(({ family, address }) => isIP(address) === (family === 'v4' ? 4 : 6), {
      path: ['address'],
      message: 'is of the other family',
    }),
    z.refine(({ family, mask }) => Number(mask) <= (family === 'v4' ? 32 : 128), {
      path: ['mask'],
      message: 'is longer than the address',
    }),
  );

const networkInterface: z.ZodMiniType<NetworkInterface> = z.strictObject({
  device: interfaceName.check(z.describe('on the host')),
  name: interfaceName.check(z.describe('in the guest')),
  ipAddresses: z._default(z.array(ipAddress), []),
  mtu: z._default(z.int().check(z.gte(MIN_MTU), z.lte(MAX_MTU)), DEFAULT_MTU),
  hwAddr: mac,
  linkType: nameOf('linkType', ['veth', 'tap', 'tuntap'], {
    macvlan: NOT_HOT,
    macvtap: NOT_HOT,
    ipvlan: NOT_HOT,
    physical: NOT_HOT,
    'vhost-user': NOT_HOT,
  }),
  rawFlags: z._default(z.int().check(z.gte(0), z.lte(MAX_U32)), 0),
});

const network = z.string().check(
  z.refine((text) => {
    const [address = '', prefix, ...more] = text.split('/');
    const bits = isIP(address) === 6 ? 128 : 32;
    if (isIP(address) === 0 || more.length > 0) return false;
    return prefix === undefined || (/^\d{1,3}$/.test(prefix) && Number(prefix) <= bits);
  }, 'is no network such as 10.0.0.0/8'),
);

const optionalIp = z._default(
  z.string().check(z.refine((text) => text === '' || isIP(text) !== 0, 'is no IP address')),
  '',
);

const route: z.ZodMiniType<Route> = z.strictObject({
  dest: z.union([
    z.pipe(
      z.enum(['', 'default']),
      z.transform(() => ''),
    ),
    network,
  ]),
  gateway: optionalIp,
  device: interfaceName,
  source: optionalIp,
  scope: z._default(z.int().check(z.gte(0), z.lte(255)), 0),
});

const routes = z.strictObject({ routes: z.array(route) });

export function parseInterface(input: unknown): NetworkInterface {
  return parseConfig(networkInterface, input, 'invalid interface');
}

export function parseHwAddr(input: unknown): string {
  return parseConfig(z.strictObject({ hwAddr: mac }), { hwAddr: input }, 'invalid interface')
    .hwAddr;
}

export function parseRoutes(input: unknown): Route[] {
  return parseConfig(routes, { routes: input }, 'invalid routes').routes;
}
