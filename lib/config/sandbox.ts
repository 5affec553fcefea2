/** Options of `Sandbox.create`. */

import {
  abortSignal,
  absoluteGuestPath,
  environment,
  hostPath,
  limitMs,
  nonEmptyText,
  notBuilt,
  onlyBuilt,
  sandboxName,
} from './common.js';
import { memoryMib, vcpuCount } from './host-limits.js';
import { kernelArgument } from './machine.js';
import { parseConfig } from './parse.js';
import * as z from './zod.js';

const MAX_HOSTNAME = 64;
/** The templates' group descriptors have room for 256 GiB. */
const MAX_ROOT_DISK_MIB = 256 * 1024;
const MIN_ROOT_DISK_MIB = 64;

/** A step of the boot, told to `onProgress` when it begins and when it ends. */
export interface ProgressEvent {
  type: 'stage';
  stage: BootStage;
  status: 'begin' | 'end';
  /** Only at the end. */
  durationMs?: number;
}

/** The steps of a boot, in order. */
export type BootStage = 'validate' | 'assets' | 'disk' | 'machine' | 'kernel' | 'root';

export interface SandboxOptions {
  /** 1 to 128 bytes of letters, digits, `.`, `_`, `-`, the first a letter or digit; generated when absent. */
  name?: string | undefined;
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
  /** Size of the writable layer in MiB; default 4096. It is gone when the sandbox ends. */
  rootDiskMib?: number | undefined;
  kernel?: { path?: string | undefined; args?: string[] | undefined } | undefined;
  /** How long the guest may take until its agent answers, in ms; default 120 000. */
  bootTimeoutMs?: number | undefined;
  network?: 'none' | undefined;
  warmStart?: 'auto' | 'off' | undefined;
  /**
   * `restricted`: commands have few capabilities and can gain none; set-user-ID programs and device
   * files of the root have no effect.
   */
  securityProfile?: 'default' | 'restricted' | undefined;
  detached?: false | undefined;
  ephemeral?: true | undefined;
  onProgress?: ((event: ProgressEvent) => void) | undefined;
  /** Gives up the creation; everything made so far is taken down. */
  signal?: AbortSignal | undefined;
}

export interface ResolvedSandboxOptions {
  name?: string | undefined;
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
  securityProfile: 'default' | 'restricted';
  onProgress?: ((event: ProgressEvent) => void) | undefined;
  signal?: AbortSignal | undefined;
}

export const sandboxOptionsSchema: z.ZodType<ResolvedSandboxOptions> = z.strictObject({
  name: sandboxName.optional().describe('name; generated when absent'),
  cpus: vcpuCount.default(1).describe('virtual CPUs'),
  memoryMib: memoryMib.default(512).describe('guest memory in MiB'),
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
  bootTimeoutMs: limitMs.default(120_000).describe('limit of the boot in ms'),
  network: onlyBuilt('network', ['none']).describe('network of the guest'),
  warmStart: onlyBuilt('warmStart', ['auto', 'off']).describe('start from a template'),
  detached: onlyBuilt('detached', [false]).describe('outlive this process'),
  ephemeral: onlyBuilt('ephemeral', [true]).describe('leave nothing behind'),
  replace: onlyBuilt('replace', [false]).describe('replace a sandbox of this name'),
  securityProfile: z.enum(['default', 'restricted']).default('default').describe('hardening'),
  onProgress: z
    .custom<(event: ProgressEvent) => void>((value) => typeof value === 'function', {
      message: 'must be a function',
    })
    .optional()
    .describe('told about each step of the boot'),
  signal: abortSignal.optional().describe('gives up the creation'),
  image: notBuilt('image', 'leave it out for the built-in base'),
  snapshot: notBuilt('snapshot'),
  maxCpus: notBuilt('maxCpus', 'set cpus to the maximum'),
  maxMemoryMib: notBuilt('maxMemoryMib', 'set memoryMib to the maximum'),
  labels: notBuilt('labels'),
  entrypoint: notBuilt('entrypoint'),
  init: notBuilt('init'),
  scripts: notBuilt('scripts'),
  patches: notBuilt('patches'),
  mounts: notBuilt('mounts'),
  maxDurationMs: notBuilt('maxDurationMs', 'use a timer and kill()'),
  idleTimeoutMs: notBuilt('idleTimeoutMs'),
  logLevel: notBuilt('logLevel'),
  quietLogs: notBuilt('quietLogs'),
  pullPolicy: notBuilt('pullPolicy'),
  registryAuth: notBuilt('registryAuth'),
});

export function parseSandboxOptions(input: unknown): ResolvedSandboxOptions {
  return parseConfig(
    sandboxOptionsSchema,
    input === undefined ? {} : input,
    'invalid sandbox options',
  );
}
