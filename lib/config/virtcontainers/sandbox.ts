/** A sandbox of `embervm/virtcontainers`. */
import { cleanText, hostPath, nonEmptyText, sandboxName } from '../common.js';
import { memoryMib, vcpuCount } from '../host-limits.js';
import { parseConfig } from '../parse.js';
import * as z from '../zod.js';
import {
  annotations,
  type ContainerConfig,
  containerConfig,
  type ResolvedContainerConfig,
} from './container.js';
import {
  type HypervisorConfig,
  type HypervisorType,
  hypervisorConfig,
  hypervisorType,
  type ResolvedHypervisorConfig,
} from './hypervisor.js';
import {
  type AgentConfig,
  type AgentType,
  agentConfig,
  agentType,
  type NetworkConfig,
  networkConfig,
  type ProxyConfig,
  type ProxyType,
  proxyConfig,
  proxyType,
  type ResolvedNetworkConfig,
  type ResolvedProxyConfig,
  type ResolvedShimConfig,
  type ShimConfig,
  type ShimType,
  shimConfig,
  shimType,
} from './parts.js';
import { refused } from './refused.js';

/** What the VM has: overrides `numVcpus` and `memorySize` of the hypervisor. */
export interface Resources {
  vcpus?: number | undefined;
  /** In MiB. */
  memory?: number | undefined;
}

/** A directory of the host that the guest mounts by its tag. */
export interface Volume {
  mountTag: string;
  hostPath: string;
}

/** A program that is run at a step of a container's life. */
export interface Hook {
  path: string;
  args?: string[] | undefined;
  env?: string[] | undefined;
  timeout?: number | undefined;
}

export interface Hooks {
  preStartHooks?: Hook[] | undefined;
  postStartHooks?: Hook[] | undefined;
  postStopHooks?: Hook[] | undefined;
}

export interface SandboxConfig {
  /** Named as a sandbox of `embervm` is; made up when absent. */
  id?: string | undefined;
  /** Default: the id. */
  hostname?: string | undefined;
  /** Refused unless empty. */
  hooks?: Hooks | undefined;
  vmConfig?: Resources | undefined;
  /** Default `builtin`. */
  hypervisorType?: HypervisorType | undefined;
  hypervisorConfig?: HypervisorConfig | undefined;
  /** Default `noop`. */
  agentType?: AgentType | undefined;
  agentConfig?: AgentConfig | undefined;
  /** Default `noProxy`. */
  proxyType?: ProxyType | undefined;
  proxyConfig?: ProxyConfig | undefined;
  /** Default `noopShim`. */
  shimType?: ShimType | undefined;
  shimConfig?: ShimConfig | undefined;
  networkConfig?: NetworkConfig | undefined;
  volumes?: Volume[] | undefined;
  containers?: ContainerConfig[] | undefined;
  annotations?: Record<string, string> | undefined;
}

export interface ResolvedVcSandboxConfig {
  id?: string | undefined;
  hostname?: string | undefined;
  vmConfig: { vcpus?: number | undefined; memory?: number | undefined };
  hypervisorType: HypervisorType;
  hypervisorConfig: ResolvedHypervisorConfig;
  agentType: AgentType;
  agentConfig: Record<never, never>;
  proxyType: ProxyType;
  proxyConfig: ResolvedProxyConfig;
  shimType: ShimType;
  shimConfig: ResolvedShimConfig;
  networkConfig: ResolvedNetworkConfig;
  volumes: Volume[];
  containers: ResolvedContainerConfig[];
  annotations: Record<string, string>;
}

const MAX_HOSTNAME = 64;
const HOOKS = 'hooks are not run; call the programs before and after the call that they belong to';

const resources = z.strictObject({
  vcpus: z.optional(vcpuCount).check(z.describe('vCPUs of the VM')),
  memory: z.optional(memoryMib).check(z.describe('memory of the VM in MiB')),
});

const hooks = z.optional(
  z.strictObject({
    preStartHooks: refused('hooks.preStartHooks', HOOKS),
    postStartHooks: refused('hooks.postStartHooks', HOOKS),
    postStopHooks: refused('hooks.postStopHooks', HOOKS),
  }),
);

const volume = z.strictObject({ mountTag: nonEmptyText, hostPath });

/** Named here by what they do, each with what the built-in VMM says to it. */
const notBuiltIn: readonly [string, (config: ResolvedVcSandboxConfig) => boolean, string][] = [
  [
    'volumes',
    ({ volumes }) => volumes.length > 0,
    'directories of the host cannot be shared with these guests yet',
  ],
  [
    'networkConfig.netNsPath',
    ({ networkConfig: { netNsPath } }) => netNsPath !== undefined,
    'these guests have no network yet',
  ],
  [
    'proxyType',
    ({ proxyType: type }) => type === 'kataProxy' || type === 'ccProxy',
    'the agent is reached in this process, over vsock, where a proxy program cannot go',
  ],
];

const schema: z.ZodMiniType<ResolvedVcSandboxConfig> = z
  .pipe(
    z.strictObject({
      id: z.optional(sandboxName).check(z.describe('unique in this EMBERVM_HOME')),
      hostname: z.optional(
        cleanText.check(
          z.refine(({ length }) => length <= MAX_HOSTNAME, `has at most ${MAX_HOSTNAME} bytes`),
        ),
      ),
      hooks,
      vmConfig: z._default(resources, {}),
      hypervisorType: z._default(hypervisorType, 'builtin'),
      hypervisorConfig: z.prefault(hypervisorConfig, {}),
      agentType: z._default(agentType, 'noop'),
      agentConfig: z.prefault(agentConfig, {}),
      proxyType: z._default(proxyType, 'noProxy'),
      proxyConfig: z.prefault(proxyConfig, {}),
      shimType: z._default(shimType, 'noopShim'),
      shimConfig: z.prefault(shimConfig, {}),
      networkConfig: z.prefault(networkConfig, {}),
      volumes: z._default(z.array(volume), []),
      containers: z._default(z.array(containerConfig), []),
      annotations: z._default(annotations, {}),
    }),
    z.transform(({ hooks: _, ...config }) => config),
  )
  .check(
    z.superRefine((config, context) => {
      const refuse = (path: string, message: string, params = {}): void => {
        context.addIssue({ code: 'custom', path: path.split('.'), message, params });
      };
      if (config.hypervisorType === 'builtin') {
        for (const [name, isSet, reason] of notBuiltIn) {
          if (!isSet(config)) continue;
          const message = `the option "${name}" is not supported by the built-in VMM: ${reason}`;
          refuse(name, message, { unsupported: true });
        }
      }
      const { shimType: shim, proxyType: proxy } = config;
      if ((shim === 'kataShim' || shim === 'ccShim') && config.shimConfig.path === undefined) {
        refuse('shimConfig.path', `must be the program of the ${shim}`);
      }
      if ((proxy === 'kataProxy' || proxy === 'ccProxy') && config.proxyConfig.path === undefined) {
        refuse('proxyConfig.path', `must be the program of the ${proxy}`);
      }
      const { numVcpus, defaultMaxVcpus } = config.hypervisorConfig;
      const vcpus = config.vmConfig.vcpus ?? numVcpus;
      if (defaultMaxVcpus !== undefined && defaultMaxVcpus < vcpus) {
        refuse('hypervisorConfig.defaultMaxVcpus', `must not be less than the ${vcpus} vCPUs`);
      }
      const ids = new Set<string>();
      for (const { id } of config.containers) {
        if (ids.has(id)) refuse('containers', `two containers have the id "${id}"`);
        ids.add(id);
      }
    }),
  );

export function parseSandboxConfig(input: unknown): ResolvedVcSandboxConfig {
  return parseConfig(schema, input, 'invalid sandbox configuration');
}
