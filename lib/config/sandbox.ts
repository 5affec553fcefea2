/** Options of `Sandbox.create`. */

import {
  abortSignal,
  absoluteGuestPath,
  cleanText,
  environment,
  hostPath,
  limitMs,
  nonEmptyText,
  notBuilt,
  onlyBuilt,
  sandboxName,
  timeoutMs,
} from './common.js';
import { memoryMib, vcpuCount } from './host-limits.js';
import {
  type ImageOption,
  type ImageProgressEvent,
  imageOption,
  type PullPolicy,
  pullPolicy,
  type RegistryAuth,
  registryAuth,
} from './image.js';
import { type InitOption, init, type ResolvedInit } from './init.js';
import { type LogLevel, logLevel } from './logs.js';
import { kernelArgument } from './machine.js';
import { parseConfig } from './parse.js';
import { type Patch, patches } from './patches.js';
import { type RegistryOptions, registryOptions } from './registry.js';
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
  registryAuth?: RegistryAuth | undefined;
  /** How registries are reached: mirrors, trust roots, time limits. */
  registry?: RegistryOptions | undefined;
  /** Instead of the entrypoint of the image, for `execDefault()`; its command has no meaning then. */
  entrypoint?: string[] | undefined;
  /** Changes to its root, made in their order before anything runs in it; only once. */
  patches?: Patch[] | undefined;
  /**
   * Go on from the snapshot of this name: with its memory at once, where it has memory, else by a
   * boot with its disk. What it was created with is inherited; what a machine cannot change is
   * refused.
   */
  snapshot?: string | undefined;
  /** Virtual CPUs; default 1. */
  cpus?: number | undefined;
  /** Guest memory in MiB; default 512. */
  memoryMib?: number | undefined;
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
  registryAuth?: RegistryAuth | undefined;
  patches: Patch[];
  registry?: RegistryOptions | undefined;
  entrypoint?: string[] | undefined;
  snapshot?: string | undefined;
  cpus: number;
  memoryMib: number;
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

const labelKey: z.ZodType<string> = z
  .string()
  .refine(
    (key) => /^[A-Za-z0-9][A-Za-z0-9._/-]*$/.test(key) && key.length <= MAX_LABEL_KEY,
    `a label key has 1 to ${MAX_LABEL_KEY} letters, digits, ".", "_", "-" and "/", the first a letter or digit`,
  )
  .refine(
    (key) => !RESERVED_LABELS.some((prefix) => key.startsWith(prefix)),
    `a label key must not start with ${RESERVED_LABELS.join(' or ')}: these are reserved`,
  );

const labelValue: z.ZodType<string> = cleanText.refine(
  (value) => encoder.encode(value).length <= MAX_LABEL_VALUE,
  `a label has at most ${MAX_LABEL_VALUE} bytes`,
);

/** Whether a sandbox may have a label of an image. */
export function isSandboxLabel(key: string, value: string): boolean {
  return labelKey.safeParse(key).success && labelValue.safeParse(value).success;
}

export const labels: z.ZodType<Record<string, string>> = z
  .record(labelKey, labelValue)
  .refine(
    (all) => Object.keys(all).length <= MAX_LABELS,
    `a sandbox has at most ${MAX_LABELS} labels`,
  );

const scriptName: z.ZodType<string> = z
  .string()
  .refine(
    (name) => /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/.test(name),
    'a script name has 1 to 128 letters, digits, ".", "_" and "-", and begins with none of "." and "-"',
  );

const progressCallback = z.custom<(event: ProgressEvent) => void>(
  (value) => typeof value === 'function',
  { message: 'must be a function' },
);

/** What the VM itself has. */
const vmFields = {
  cpus: vcpuCount.default(1).describe('virtual CPUs'),
  memoryMib: memoryMib.default(512).describe('guest memory in MiB'),
  rootDiskMib: z
    .int()
    .min(MIN_ROOT_DISK_MIB, 'the file system needs that much for itself (MiB)')
    .max(MAX_ROOT_DISK_MIB, 'the file system grows no further (MiB)')
    .default(4096)
    .describe('size of the writable layer in MiB'),
  kernel: z
    .strictObject({
      path: hostPath.optional().describe('another guest kernel'),
      args: z.array(kernelArgument).default([]).describe('more words of the command line'),
    })
    .default({ args: [] })
    .describe('the guest kernel'),
  securityProfile: z.enum(['default', 'restricted']).default('default').describe('hardening'),
};

/** What a VM has from its beginning to its end: those with the same can stand for each other. */
export type VmConfig = Pick<
  ResolvedSandboxOptions,
  'cpus' | 'memoryMib' | 'rootDiskMib' | 'securityProfile' | 'kernel'
>;

export const vmConfig: z.ZodType<VmConfig> = z.strictObject(vmFields).prefault({});

/** Something with a `newVm`: `VmFactory`, which stands above this layer. */
export const vmFactory: z.ZodType<object> = z.custom<object>(
  (value) => typeof (value as { newVm?: unknown } | null)?.newVm === 'function',
  'must be a VM factory, which has a newVm()',
);

const fields = z.strictObject({
  ...vmFields,
  name: sandboxName.optional().describe('name; generated when absent'),
  env: environment.default({}).describe('environment of every command'),
  workdir: absoluteGuestPath.optional().describe('working directory of every command'),
  user: nonEmptyText.optional().describe('user of every command'),
  shell: absoluteGuestPath.default('/bin/sh').describe('what shell() runs'),
  hostname: nonEmptyText
    .refine(
      (name) => new TextEncoder().encode(name).length <= MAX_HOSTNAME,
      `a host name has at most ${MAX_HOSTNAME} bytes`,
    )
    .optional()
    .describe('host name; made from the name when absent'),
  bootTimeoutMs: limitMs.default(120_000).describe('limit of the boot in ms'),
  network: onlyBuilt('network', ['none']).describe('network of the guest'),
  warmStart: z.enum(['auto', 'off']).optional().describe('start from a template'),
  vmFactory: vmFactory.optional().describe('makes the VM'),
  detached: onlyBuilt('detached', [false]).describe('outlive this process'),
  labels: labels.default({}).describe('for finding it'),
  ephemeral: z.boolean().optional().describe('leave nothing behind'),
  replace: z
    .union([z.boolean(), z.strictObject({ timeoutMs })])
    .default(false)
    .describe('replace a sandbox of this name'),
  maxDurationMs: limitMs.optional().describe('longest life in ms'),
  idleTimeoutMs: limitMs.optional().describe('longest time without a process in ms'),
  onProgress: progressCallback.optional().describe('told about each step of the boot'),
  signal: abortSignal.optional().describe('gives up the creation'),
  image: imageOption.optional().describe('what the root is made of'),
  snapshot: sandboxName.optional().describe('go on from a snapshot'),
  maxCpus: notBuilt('maxCpus', 'set cpus to the maximum'),
  maxMemoryMib: notBuilt('maxMemoryMib', 'set memoryMib to the maximum'),
  entrypoint: z.array(cleanText).optional().describe('instead of that of the image'),
  init: init.optional().describe('PID 1 of the workload'),
  scripts: z
    .record(scriptName, cleanText)
    .default({})
    .describe('programs on the PATH of every command'),
  patches: patches.default([]).describe('changes to the root of a new sandbox'),
  mounts: notBuilt('mounts'),
  logLevel: logLevel.default('info').describe('what is logged about the sandbox'),
  quietLogs: z.boolean().default(false).describe('log nothing'),
  pullPolicy: pullPolicy.default('if-missing').describe('when an image is pulled'),
  registryAuth: registryAuth.optional().describe('who pulls'),
  registry: registryOptions.optional().describe('how registries are reached'),
});

export const sandboxOptionsSchema: z.ZodType<ResolvedSandboxOptions> = fields
  .refine(({ warmStart, vmFactory }) => warmStart === undefined || vmFactory === undefined, {
    message: 'vmFactory decides how it starts: leave out warmStart',
    path: ['warmStart'],
  })
  .transform(({ ephemeral, replace, ...options }) => {
    const grace = replace === true ? DEFAULT_REPLACE_MS : undefined;
    return {
      ...options,
      ephemeral: ephemeral ?? options.name === undefined,
      replaceMs: typeof replace === 'object' ? replace.timeoutMs : grace,
    };
  });

const start = z.strictObject({
  bootTimeoutMs: limitMs.optional(),
  onProgress: progressCallback.optional(),
  signal: abortSignal.optional(),
});

const list: z.ZodType<ResolvedListOptions> = z.strictObject({
  labels: labels.default({}).describe('all of them must match'),
  limit: z.int().min(1).max(MAX_PAGE).default(DEFAULT_PAGE).describe('sandboxes of a page'),
  cursor: nonEmptyText.optional().describe('where the page before ended'),
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
