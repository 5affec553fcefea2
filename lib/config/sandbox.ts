/** Options of `Sandbox.create`. */
import {
  abortSignal,
  absoluteGuestPath,
  cleanText,
  environment,
  hostPath,
  limitMs,
  nonEmptyText,
  onlyBuilt,
  sandboxName,
  timeoutMs,
} from './common.js';
import { growableMemory, type MemorySizes, memoryMib, vcpuCount } from './host-limits.js';
import {
  type ImageOption,
  type ImageProgressEvent,
  imageOption,
  type PullPolicy,
  pullPolicy,
} from './image.js';
import { type InitOption, init, type ResolvedInit } from './init.js';
import { type LogLevel, logLevel } from './logs.js';
import { kernelArgument } from './machine.js';
import { type Mount, mounts, type ResolvedMount } from './mounts.js';
import { parseConfig } from './parse.js';
import { type Patch, patches } from './patches.js';
import {
  type RegistryCredentials,
  type RegistryOptions,
  registryCredentials,
  registryOptions,
} from './registry.js';
import * as z from './zod.js';

type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };

const MAX_HOSTNAME = 64;
export const MAX_LABELS = 64;
const MAX_LABEL_KEY = 128;
const MAX_LABEL_VALUE = 1024;
const DEFAULT_PAGE = 20;
const MAX_PAGE = 100;
const DEFAULT_REPLACE_MS = 10_000;
/** The templates' group descriptors have room for 256 GiB. */
const MAX_ROOT_DISK_MIB = 256 * 1024;
const MIN_ROOT_DISK_MIB = 64;

/** A step of the boot, told when it begins and when it ends, and how far the pull of an image is. */
export type ProgressEvent = StageEvent | ImageProgressEvent;

export interface StageEvent {
  type: 'stage';
  stage: BootStage;
  status: 'begin' | 'end';
  /** Only at the end. */
  durationMs?: number;
}

/** The steps of a boot; `init` where there is one. */
export type BootStage =
  | 'validate'
  /** Of a sandbox that has one: it is looked up, or pulled. */
  | 'image'
  | 'assets'
  | 'disk'
  /** A cold start. */
  | 'machine'
  | 'kernel'
  | 'root'
  /** The first of its kind is saved for later ones. */
  | 'template'
  /** A warm start. */
  | 'restore'
  | 'agent'
  /** Of a sandbox that has more on line than its guest boots with (`maxCpus`). */
  | 'cpus'
  /** Of a sandbox that has some. */
  | 'mounts'
  | 'init';

export interface SandboxOptions {
  /** 1 to 128 bytes of letters, digits, `.`, `_`, `-`, the first a letter or digit; generated when absent. */
  name?: string | undefined;
  /**
   * What its root is made of: the name of an image in a registry, or
   * `{ archive | layout | rootfs | disk: path }`; the built-in base when absent. Environment,
   * user, working directory and labels of the image are those of the sandbox, unless given.
   */
  image?: ImageOption | undefined;
  /**
   * `if-missing` (the default): pull what is not there. `always`: ask the registry first. `never`:
   * `ERR_IMAGE_NOT_FOUND` for what is not there.
   */
  pullPolicy?: PullPolicy | undefined;
  /** Instead of what the configuration of Docker says. Not put on record. */
  registryAuth?: RegistryCredentials | undefined;
  /** How registries are reached: mirrors, trust roots, time limits. */
  registry?: RegistryOptions | undefined;
  /** Instead of the entrypoint of the image, for `execDefault()`; its command has no meaning then. */
  entrypoint?: string[] | undefined;
  /** Changes to its root, made in their order before anything runs in it; only once. */
  patches?: Patch[] | undefined;
  /**
   * What is mounted inside its root, by the absolute paths there; made where they are missing.
   * Mounted before anything runs in it, and again each time it starts.
   */
  mounts?: Record<string, Mount> | undefined;
  /**
   * Go on from the snapshot of this name: with its memory at once, where it has memory, else by a
   * boot with its disk. What it was created with is inherited; what a machine cannot change is
   * refused.
   */
  snapshot?: string | undefined;
  /** Virtual CPUs; default 1. */
  cpus?: number | undefined;
  /** How many {@link Sandbox.resize} may bring on line; default `cpus`. */
  maxCpus?: number | undefined;
  /** Guest memory in MiB; default 512. */
  memoryMib?: number | undefined;
  /**
   * What {@link Sandbox.resize} may bring it to, in MiB; default `memoryMib`, from which it differs
   * by a multiple of 4.
   */
  maxMemoryMib?: number | undefined;
  /** Environment of every command. */
  env?: Record<string, string> | undefined;
  /** Working directory of every command; the user's home when absent. */
  workdir?: string | undefined;
  /** `name`, `uid`, `name:group` or `uid:gid` of every command; root when absent. */
  user?: string | undefined;
  /** What `shell()` runs; default `/bin/sh`. */
  shell?: string | undefined;
  /** At most 64 bytes; made from the name when absent. */
  hostname?: string | undefined;
  /** Size of the writable layer in MiB; default 4096. */
  rootDiskMib?: number | undefined;
  kernel?: { path?: string | undefined; args?: string[] | undefined } | undefined;
  /** How long the guest may take until its agent answers, in ms; default 120 000. */
  bootTimeoutMs?: number | undefined;
  network?: 'none' | undefined;
  /**
   * `auto` (the default): go on from a saved guest of the same kernel, agent, base image, CPUs,
   * memory and disk size where there is one, else save this one for later. `off`: boot.
   */
  warmStart?: 'auto' | 'off' | undefined;
  /** Makes the VM, in place of `warmStart`: `createFromCache({ size: 4 })`, or one of your own. */
  vmFactory?: { newVm(request: never): Promise<object> } | undefined;
  /**
   * `restricted`: commands have few capabilities and can gain none; set-user-ID programs and device
   * files of the root have no effect.
   */
  securityProfile?: 'default' | 'restricted' | undefined;
  /**
   * What becomes PID 1 of the workload, in a PID namespace that all commands join; the sandbox ends
   * when it does (`completed`). `auto`: the init that the image has.
   */
  init?: InitOption | undefined;
  /**
   * Programs by name, each with its `#!` line: files of `/.embervm/scripts`, which comes first on
   * the PATH of every command.
   */
  scripts?: Record<string, string> | undefined;
  detached?: false | undefined;
  /** For finding it: `Sandbox.list({ labels })`. */
  labels?: Record<string, string> | undefined;
  /**
   * Keep nothing of it when it has ended. Default: true for a sandbox without a `name`, false for
   * one that was given a name, which can be started again with its disk.
   */
  ephemeral?: boolean | undefined;
  /**
   * Stop and remove a sandbox of this name first, where there is one; default false. `timeoutMs` is
   * the time for its graceful end, 10 000 by default.
   */
  replace?: boolean | { timeoutMs: number } | undefined;
  /** Stop it when it has run for this long, in ms. */
  maxDurationMs?: number | undefined;
  /** Stop it when nothing has run in it for this long, in ms. */
  idleTimeoutMs?: number | undefined;
  /** What is logged about the sandbox itself; default `info`. Output of commands always is. */
  logLevel?: LogLevel | undefined;
  /** Log nothing, not even the output of commands; default false. */
  quietLogs?: boolean | undefined;
  onProgress?: ((event: ProgressEvent) => void) | undefined;
  /** Gives up the creation; everything made so far is taken down. */
  signal?: AbortSignal | undefined;
}

/** What `Sandbox.start` takes; the rest is as it was at the creation. */
export type StartOptions = Pick<SandboxOptions, 'bootTimeoutMs' | 'onProgress' | 'signal'>;

export interface ListOptions {
  /** Only sandboxes that have all of these. */
  labels?: Record<string, string> | undefined;
  /** 1 to 100; default 20. */
  limit?: number | undefined;
  /** `nextCursor` of the page before. */
  cursor?: string | undefined;
}

export interface ResolvedListOptions {
  labels: Record<string, string>;
  limit: number;
  cursor?: string | undefined;
}

export interface ResolvedSandboxOptions {
  name?: string | undefined;
  image?: ImageOption | undefined;
  pullPolicy: PullPolicy;
  registryAuth?: RegistryCredentials | undefined;
  patches: Patch[];
  /** What is above comes first. */
  mounts: ResolvedMount[];
  registry?: RegistryOptions | undefined;
  entrypoint?: string[] | undefined;
  snapshot?: string | undefined;
  cpus: number;
  maxCpus: number;
  memoryMib: number;
  maxMemoryMib: number;
  env: Record<string, string>;
  workdir?: string | undefined;
  user?: string | undefined;
  shell: string;
  hostname?: string | undefined;
  rootDiskMib: number;
  kernel: { path?: string | undefined; args: string[] };
  bootTimeoutMs: number;
  warmStart?: 'auto' | 'off' | undefined;
  vmFactory?: object | undefined;
  securityProfile: 'default' | 'restricted';
  init?: ResolvedInit | undefined;
  scripts: Record<string, string>;
  labels: Record<string, string>;
  ephemeral: boolean;
  /** Time for the graceful end of the sandbox to replace; `undefined`: replace none. */
  replaceMs?: number | undefined;
  maxDurationMs?: number | undefined;
  idleTimeoutMs?: number | undefined;
  logLevel: LogLevel;
  quietLogs: boolean;
  onProgress?: ((event: ProgressEvent) => void) | undefined;
  signal?: AbortSignal | undefined;
}

const encoder = new TextEncoder();

/** Prefixes by which runtimes label what is theirs. */
const RESERVED_LABELS = ['embervm.', 'sandbox.', 'service.', 'microsandbox.'];

const labelKey: z.ZodMiniType<string> = z.string().check(
  z.refine(
    (key) => /^[A-Za-z0-9][A-Za-z0-9._/-]*$/.test(key) && key.length <= MAX_LABEL_KEY,
    `a label key has 1 to ${MAX_LABEL_KEY} letters, digits, ".", "_", "-" and "/", the first a letter or digit`,
  ),
  z.refine(
    (key) => !RESERVED_LABELS.some((prefix) => key.startsWith(prefix)),
    `a label key must not start with ${RESERVED_LABELS.join(' or ')}: these are reserved`,
  ),
);

const labelValue: z.ZodMiniType<string> = cleanText.check(
  z.refine(
    (value) => encoder.encode(value).length <= MAX_LABEL_VALUE,
    `a label has at most ${MAX_LABEL_VALUE} bytes`,
  ),
);

/** Whether a sandbox may have a label of an image. */
export function isSandboxLabel(key: string, value: string): boolean {
  return labelKey.safeParse(key).success && labelValue.safeParse(value).success;
}

export const labels: z.ZodMiniType<Record<string, string>> = z
  .record(labelKey, labelValue)
  .check(
    z.refine(
      (all) => Object.keys(all).length <= MAX_LABELS,
      `a sandbox has at most ${MAX_LABELS} labels`,
    ),
  );

const scriptName: z.ZodMiniType<string> = z
  .string()
  .check(
    z.refine(
      (name) => /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/.test(name),
      'a script name has 1 to 128 letters, digits, ".", "_" and "-", and begins with none of "." and "-"',
    ),
  );

const progressCallback = z.custom<(event: ProgressEvent) => void>(
  (value) => typeof value === 'function',
  { message: 'must be a function' },
);

/** What the VM itself has. */
const vmFields = {
  cpus: z._default(vcpuCount, 1).check(z.describe('virtual CPUs')),
  maxCpus: z.optional(vcpuCount).check(z.describe('virtual CPUs that can be on line')),
  memoryMib: z._default(memoryMib, 512).check(z.describe('guest memory in MiB')),
  maxMemoryMib: z.optional(memoryMib).check(z.describe('guest memory that can be had, in MiB')),
  rootDiskMib: z
    ._default(
      z
        .int()
        .check(
          z.gte(MIN_ROOT_DISK_MIB, 'the file system needs that much for itself (MiB)'),
          z.lte(MAX_ROOT_DISK_MIB, 'the file system grows no further (MiB)'),
        ),
      4096,
    )
    .check(z.describe('size of the writable layer in MiB')),
  kernel: z
    ._default(
      z.strictObject({
        path: z.optional(hostPath).check(z.describe('another guest kernel')),
        args: z
          ._default(z.array(kernelArgument), [])
          .check(z.describe('more words of the command line')),
      }),
      { args: [] },
    )
    .check(z.describe('the guest kernel')),
  securityProfile: z
    ._default(z.enum(['default', 'restricted']), 'default')
    .check(z.describe('hardening')),
};

/** What a VM has from its beginning to its end: those with the same can stand for each other. */
export type VmConfig = Pick<
  ResolvedSandboxOptions,
  'cpus' | 'maxCpus' | 'memoryMib' | 'maxMemoryMib' | 'rootDiskMib' | 'securityProfile' | 'kernel'
>;

interface CpuCounts {
  cpus: number;
  maxCpus?: number | undefined;
}

const enoughCpus = z.refine<CpuCounts>(({ cpus, maxCpus = cpus }) => maxCpus >= cpus, {
  path: ['maxCpus'],
  message: 'must not be less than cpus',
});

function withMaxima<Config extends CpuCounts & MemorySizes>(
  config: Config,
): Config & { maxCpus: number; maxMemoryMib: number } {
  return {
    ...config,
    maxCpus: config.maxCpus ?? config.cpus,
    maxMemoryMib: config.maxMemoryMib ?? config.memoryMib,
  };
}

export const vmConfig: z.ZodMiniType<VmConfig> = z.prefault(
  z.pipe(z.strictObject(vmFields).check(enoughCpus, growableMemory), z.transform(withMaxima)),
  {},
);

/** Something with a `newVm`: `VmFactory`, which stands above this layer. */
export const vmFactory: z.ZodMiniType<object> = z.custom<object>(
  (value) => typeof (value as { newVm?: unknown } | null)?.newVm === 'function',
  'must be a VM factory, which has a newVm()',
);

const fields = z.strictObject({
  ...vmFields,
  name: z.optional(sandboxName).check(z.describe('name; generated when absent')),
  env: z._default(environment, {}).check(z.describe('environment of every command')),
  workdir: z.optional(absoluteGuestPath).check(z.describe('working directory of every command')),
  user: z.optional(nonEmptyText).check(z.describe('user of every command')),
  shell: z._default(absoluteGuestPath, '/bin/sh').check(z.describe('what shell() runs')),
  hostname: z
    .optional(
      nonEmptyText.check(
        z.refine(
          (name) => new TextEncoder().encode(name).length <= MAX_HOSTNAME,
          `a host name has at most ${MAX_HOSTNAME} bytes`,
        ),
      ),
    )
    .check(z.describe('host name; made from the name when absent')),
  bootTimeoutMs: z._default(limitMs, 120_000).check(z.describe('limit of the boot in ms')),
  network: onlyBuilt('network', ['none']).check(z.describe('network of the guest')),
  warmStart: z.optional(z.enum(['auto', 'off'])).check(z.describe('start from a template')),
  vmFactory: z.optional(vmFactory).check(z.describe('makes the VM')),
  detached: onlyBuilt('detached', [false]).check(z.describe('outlive this process')),
  labels: z._default(labels, {}).check(z.describe('for finding it')),
  ephemeral: z.optional(z.boolean()).check(z.describe('leave nothing behind')),
  replace: z
    ._default(z.union([z.boolean(), z.strictObject({ timeoutMs })]), false)
    .check(z.describe('replace a sandbox of this name')),
  maxDurationMs: z.optional(limitMs).check(z.describe('longest life in ms')),
  idleTimeoutMs: z.optional(limitMs).check(z.describe('longest time without a process in ms')),
  onProgress: z.optional(progressCallback).check(z.describe('told about each step of the boot')),
  signal: z.optional(abortSignal).check(z.describe('gives up the creation')),
  image: z.optional(imageOption).check(z.describe('what the root is made of')),
  snapshot: z.optional(sandboxName).check(z.describe('go on from a snapshot')),
  entrypoint: z.optional(z.array(cleanText)).check(z.describe('instead of that of the image')),
  init: z.optional(init).check(z.describe('PID 1 of the workload')),
  scripts: z
    ._default(z.record(scriptName, cleanText), {})
    .check(z.describe('programs on the PATH of every command')),
  patches: z._default(patches, []).check(z.describe('changes to the root of a new sandbox')),
  mounts: z._default(mounts, []).check(z.describe('what is mounted inside the root')),
  logLevel: z._default(logLevel, 'info').check(z.describe('what is logged about the sandbox')),
  quietLogs: z._default(z.boolean(), false).check(z.describe('log nothing')),
  pullPolicy: z._default(pullPolicy, 'if-missing').check(z.describe('when an image is pulled')),
  registryAuth: z.optional(registryCredentials).check(z.describe('who pulls')),
  registry: z.optional(registryOptions).check(z.describe('how registries are reached')),
});

export const sandboxOptionsSchema: z.ZodMiniType<ResolvedSandboxOptions> = z.pipe(
  fields.check(
    enoughCpus,
    growableMemory,
    z.refine(({ warmStart, vmFactory }) => warmStart === undefined || vmFactory === undefined, {
      message: 'vmFactory decides how it starts: leave out warmStart',
      path: ['warmStart'],
    }),
  ),
  z.transform(({ ephemeral, replace, ...options }) => {
    const grace = replace === true ? DEFAULT_REPLACE_MS : undefined;
    return {
      ...withMaxima(options),
      ephemeral: ephemeral ?? options.name === undefined,
      replaceMs: typeof replace === 'object' ? replace.timeoutMs : grace,
    };
  }),
);

const start = z.strictObject({
  bootTimeoutMs: z.optional(limitMs),
  onProgress: z.optional(progressCallback),
  signal: z.optional(abortSignal),
});

const list: z.ZodMiniType<ResolvedListOptions> = z.strictObject({
  labels: z._default(labels, {}).check(z.describe('all of them must match')),
  limit: z
    ._default(z.int().check(z.gte(1), z.lte(MAX_PAGE)), DEFAULT_PAGE)
    .check(z.describe('sandboxes of a page')),
  cursor: z.optional(nonEmptyText).check(z.describe('where the page before ended')),
});

/** What a sandbox was created with, as it is put on record. */
export function storedOptions(input: SandboxOptions): { [key: string]: JsonValue } {
  const { onProgress: _onProgress, signal: _signal, replace: _replace, ...rest } = input;
  const {
    vmFactory: _vmFactory,
    registryAuth: _secret,
    pullPolicy: _policy,
    patches: _done,
    registry: _ways,
    ...stored
  } = rest;
  return JSON.parse(JSON.stringify(stored));
}

export function parseSandboxName(input: unknown): string {
  return parseConfig(z.strictObject({ name: sandboxName }), { name: input }, 'invalid sandbox name')
    .name;
}

export function parseStartOptions(input: unknown): StartOptions {
  return parseConfig(start, input === undefined ? {} : input, 'invalid start options');
}

export function parseListOptions(input: unknown): ResolvedListOptions {
  return parseConfig(list, input === undefined ? {} : input, 'invalid list options');
}

export function parseSandboxOptions(input: unknown): ResolvedSandboxOptions {
  return parseConfig(
    sandboxOptionsSchema,
    input === undefined ? {} : input,
    'invalid sandbox options',
  );
}
