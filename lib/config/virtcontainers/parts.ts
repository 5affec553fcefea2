/** Agent, shim, proxy and network of a sandbox of `embervm/virtcontainers`. */
import { hostPath } from '../common.js';
import * as z from '../zod.js';
import { nameOf } from './refused.js';

/** `noop`: nothing runs in the guest, and every container only has a state. */
export type AgentType = 'noop';

/** `noopShim` (default) and `kataBuiltInShim` start nothing, the others the program at `path`. */
export type ShimType = 'noopShim' | 'kataShim' | 'kataBuiltInShim' | 'ccShim';

/** `noProxy` (default) hands on the agent's address; `kataProxy` and `ccProxy` run `path`. */
export type ProxyType = 'noopProxy' | 'noProxy' | 'kataProxy' | 'kataBuiltInProxy' | 'ccProxy';

/** How an interface of the network namespace is connected to the guest. */
export type NetInterworkingModel = 'default' | 'bridged' | 'macvtap' | 'enlightened';

export interface AgentConfig {
  /** The noop agent has no options. */
  [option: string]: never;
}

export interface ShimConfig {
  /** The program, for a shim that is one. */
  path?: string | undefined;
  debug?: boolean | undefined;
  trace?: boolean | undefined;
}

export interface ProxyConfig {
  /** The program, for a proxy that is one. */
  path?: string | undefined;
  debug?: boolean | undefined;
}

export interface NetworkConfig {
  /** A network namespace whose interfaces the guest is to have. */
  netNsPath?: string | undefined;
  interworkingModel?: NetInterworkingModel | undefined;
}

export interface ResolvedShimConfig {
  path?: string | undefined;
  debug: boolean;
  trace: boolean;
}

export interface ResolvedProxyConfig {
  path?: string | undefined;
  debug: boolean;
}

export interface ResolvedNetworkConfig {
  netNsPath?: string | undefined;
  interworkingModel: NetInterworkingModel;
}

export const agentType: z.ZodMiniType<AgentType> = nameOf('agentType', ['noop'], {
  kata: 'the agent of these guests does not run OCI containers yet; use "noop"',
});

// The aliases are the spellings of the Kata API design.
export const shimType: z.ZodMiniType<ShimType> = nameOf(
  'shimType',
  ['noopShim', 'kataShim', 'kataBuiltInShim', 'ccShim'],
  {},
  {
    noopshim: 'noopShim',
    katashim: 'kataShim',
    katashimbuiltin: 'kataBuiltInShim',
    ccshim: 'ccShim',
  },
);

export const proxyType: z.ZodMiniType<ProxyType> = nameOf(
  'proxyType',
  ['noopProxy', 'noProxy', 'kataProxy', 'kataBuiltInProxy', 'ccProxy'],
  {},
  { kataProxyBuiltin: 'kataBuiltInProxy' },
);

export const agentConfig: z.ZodMiniType<Record<never, never>> = z.strictObject({});

export const shimConfig: z.ZodMiniType<ResolvedShimConfig> = z.strictObject({
  path: z.optional(hostPath).check(z.describe('program of the shim')),
  debug: z._default(z.boolean(), false),
  trace: z._default(z.boolean(), false),
});

export const proxyConfig: z.ZodMiniType<ResolvedProxyConfig> = z.strictObject({
  path: z.optional(hostPath).check(z.describe('program of the proxy')),
  debug: z._default(z.boolean(), false),
});

export const networkConfig: z.ZodMiniType<ResolvedNetworkConfig> = z.strictObject({
  netNsPath: z.optional(hostPath).check(z.describe('network namespace')),
  interworkingModel: z._default(
    z.enum(['default', 'bridged', 'macvtap', 'enlightened']),
    'default',
  ),
});
