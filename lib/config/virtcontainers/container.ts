/** A container of a sandbox of `embervm/virtcontainers`. */
import { cleanText, environment, hostPath, nonEmptyText } from '../common.js';
import { parseConfig } from '../parse.js';
import * as z from '../zod.js';

/** A variable of the environment. */
export interface EnvVar {
  var: string;
  value: string;
}

/** Names of capabilities (`CAP_CHOWN`), by the sets of capabilities(7). */
export interface LinuxCapabilities {
  bounding?: string[] | undefined;
  effective?: string[] | undefined;
  inheritable?: string[] | undefined;
  permitted?: string[] | undefined;
  ambient?: string[] | undefined;
}

/** A command to run in a container. */
export interface Cmd {
  args: string[];
  envs?: EnvVar[] | undefined;
  /** Default `/`. */
  workDir?: string | undefined;
  /** A name or a number, looked up in the container. */
  user?: string | undefined;
  primaryGroup?: string | undefined;
  supplementaryGroups?: string[] | undefined;
  /** With a terminal. */
  interactive?: boolean | undefined;
  /** Path of the host's end of a terminal, for shims that are programs. */
  console?: string | undefined;
  /** The shim does not inherit stdin, stdout and stderr of this process. */
  detach?: boolean | undefined;
  noNewPrivileges?: boolean | undefined;
  capabilities?: LinuxCapabilities | undefined;
}

export interface Mount {
  source: string;
  destination: string;
  /** Of the file system. */
  type?: string | undefined;
  options?: string[] | undefined;
  hostPath?: string | undefined;
  readOnly?: boolean | undefined;
}

/** A device of a container, or, with `addDevice`, a disk of the sandbox. */
export interface DeviceInfo {
  /** What backs it on the host: a block device, or a raw image. */
  hostPath?: string | undefined;
  /** Where the container has it. */
  containerPath: string;
  /** `b` block, `c` or `u` character, `p` FIFO. */
  devType?: 'b' | 'c' | 'u' | 'p' | undefined;
  major?: number | undefined;
  minor?: number | undefined;
  /** Permission bits. */
  fileMode?: number | undefined;
  uid?: number | undefined;
  gid?: number | undefined;
  /** Set by the sandbox, as `id` is: what is given here is not used. */
  hotplugged?: boolean | undefined;
  id?: string | undefined;
}

export interface ContainerConfig {
  /** Unique in the sandbox. */
  id: string;
  /** The container's root on the host. */
  rootFs?: string | undefined;
  readonlyRootfs?: boolean | undefined;
  cmd?: Cmd | undefined;
  annotations?: Record<string, string> | undefined;
  mounts?: Mount[] | undefined;
  deviceInfos?: DeviceInfo[] | undefined;
}

export interface ResolvedCmd {
  args: string[];
  envs: EnvVar[];
  workDir: string;
  user: string;
  primaryGroup: string;
  supplementaryGroups: string[];
  interactive: boolean;
  console: string;
  detach: boolean;
  noNewPrivileges: boolean;
  capabilities: Required<{ [Set in keyof LinuxCapabilities]: string[] }>;
}

export interface ResolvedMount {
  source: string;
  destination: string;
  type: string;
  options: string[];
  hostPath: string;
  readOnly: boolean;
}

export interface ResolvedDeviceInfo {
  hostPath?: string | undefined;
  containerPath: string;
  devType: 'b' | 'c' | 'u' | 'p';
  major: number;
  minor: number;
  fileMode: number;
  uid: number;
  gid: number;
}

export interface ResolvedContainerConfig {
  id: string;
  rootFs: string;
  readonlyRootfs: boolean;
  cmd?: ResolvedCmd | undefined;
  annotations: Record<string, string>;
  mounts: ResolvedMount[];
  deviceInfos: ResolvedDeviceInfo[];
}

const MAX_ID = 128;
const MAX_U32 = 2 ** 32 - 1;
const MAX_MODE = 0o7777;
const DEFAULT_MODE = 0o660;

/** As the OCI runtimes take it: part of paths in the guest. */
export const containerId: z.ZodMiniType<string> = z.string().check(
  z.maxLength(MAX_ID),
  z.refine(
    (id) => /^[A-Za-z0-9_+.-]+$/.test(id) && id !== '.' && id !== '..',
    'a container id contains only letters, digits, "_", "+", "." and "-", and is not "." or ".."',
  ),
);

/** Arbitrary text, under keys of the caller's. */
export const annotations: z.ZodMiniType<Record<string, string>> = z.record(nonEmptyText, cleanText);

const envVar = z.strictObject({ var: z.string(), value: cleanText }).check(
  z.refine(({ var: name }) => environment.safeParse({ [name]: '' }).success, {
    path: ['var'],
    message: 'a variable name must not be empty or contain "=" or NUL',
  }),
);

const capabilitySet = z._default(
  z.array(
    z.string().check(z.refine((name) => /^CAP_[A-Z_]+$/.test(name), 'is no name like CAP_CHOWN')),
  ),
  [],
);
const capabilities = z.strictObject({
  bounding: capabilitySet,
  effective: capabilitySet,
  inheritable: capabilitySet,
  permitted: capabilitySet,
  ambient: capabilitySet,
});
const NO_CAPABILITIES = {
  bounding: [],
  effective: [],
  inheritable: [],
  permitted: [],
  ambient: [],
};

const cmd: z.ZodMiniType<ResolvedCmd> = z.strictObject({
  args: z
    .array(cleanText)
    .check(z.minLength(1, 'there must be a program'), z.describe('program and arguments')),
  envs: z._default(z.array(envVar), []),
  workDir: z._default(
    cleanText.check(z.refine((path) => path.startsWith('/'), 'must be an absolute path')),
    '/',
  ),
  user: z._default(cleanText, ''),
  primaryGroup: z._default(cleanText, ''),
  supplementaryGroups: z._default(z.array(nonEmptyText), []),
  interactive: z._default(z.boolean(), false),
  console: z._default(cleanText, ''),
  detach: z._default(z.boolean(), false),
  noNewPrivileges: z._default(z.boolean(), false),
  capabilities: z._default(capabilities, NO_CAPABILITIES),
});

const mount: z.ZodMiniType<ResolvedMount> = z.strictObject({
  source: cleanText,
  destination: nonEmptyText,
  type: z._default(cleanText, 'bind'),
  options: z._default(z.array(cleanText), []),
  hostPath: z._default(cleanText, ''),
  readOnly: z._default(z.boolean(), false),
});

const u32 = z.int().check(z.gte(0), z.lte(MAX_U32));

const deviceInfo = z.pipe(
  z.strictObject({
    hostPath: z.optional(hostPath),
    containerPath: nonEmptyText.check(z.describe('where the container has it')),
    devType: z._default(z.enum(['b', 'c', 'u', 'p']), 'b'),
    major: z._default(u32, 0),
    minor: z._default(u32, 0),
    fileMode: z._default(z.int().check(z.gte(0), z.lte(MAX_MODE)), DEFAULT_MODE),
    uid: z._default(u32, 0),
    gid: z._default(u32, 0),
    hotplugged: z.optional(z.boolean()),
    id: z.optional(z.string()),
  }),
  z.transform(({ hotplugged: _hotplugged, id: _id, ...device }) => device),
);

export const containerConfig: z.ZodMiniType<ResolvedContainerConfig> = z.strictObject({
  id: containerId.check(z.describe('unique in the sandbox')),
  rootFs: z._default(cleanText, '').check(z.describe('root on the host')),
  readonlyRootfs: z._default(z.boolean(), false),
  cmd: z.optional(cmd),
  annotations: z._default(annotations, {}),
  mounts: z._default(z.array(mount), []),
  deviceInfos: z._default(z.array(deviceInfo), []),
});

export function parseContainerConfig(input: unknown): ResolvedContainerConfig {
  return parseConfig(containerConfig, input, 'invalid container configuration');
}

export function parseCmd(input: unknown): ResolvedCmd {
  return parseConfig(cmd, input, 'invalid command');
}

export function parseDeviceInfo(input: unknown): ResolvedDeviceInfo {
  return parseConfig(deviceInfo, input, 'invalid device');
}

export function parseAnnotations(input: unknown): Record<string, string> {
  return parseConfig(z.strictObject({ annotations }), { annotations: input }, 'invalid annotations')
    .annotations;
}
