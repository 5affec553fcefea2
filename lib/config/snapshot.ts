/** Options of snapshots, and what a sandbox has from the one that it goes on from. */
import type { Writable } from 'node:stream';
import { ConfigError } from '../errors.js';
import { abortSignal, hostPath, sandboxName } from './common.js';
import { memoryMounts } from './mounts.js';
import { parseConfig } from './parse.js';
import {
  labels,
  parseSandboxOptions,
  type ResolvedSandboxOptions,
  type SandboxOptions,
} from './sandbox.js';
import * as z from './zod.js';

const MAX_DESCRIPTION = 4096;
const DEFAULT_IMPORT_BYTES = 64 * 1024 ** 3;

export interface SaveOptions {
  /** At most 4096 characters. */
  description?: string | undefined;
  /** For finding it: `Snapshot.list({ labels })`. */
  labels?: Record<string, string> | undefined;
  /** Take the place of a snapshot of this name; default false. It stays good until then. */
  replace?: boolean | undefined;
  /** Gives up; nothing has changed then. */
  signal?: AbortSignal | undefined;
}

export interface ResolvedSaveOptions {
  name: string;
  description: string;
  labels: Record<string, string>;
  replace: boolean;
  signal?: AbortSignal | undefined;
}

export interface SnapshotListOptions {
  /** Only snapshots that have all of these. */
  labels?: Record<string, string> | undefined;
}

export interface ExportOptions {
  /** Pack it with gzip; default true. */
  compress?: boolean | undefined;
  /** Gives up; a file that was begun is removed. */
  signal?: AbortSignal | undefined;
}

export interface ImportOptions {
  /** What it is to be called here; default the name that it was exported under. */
  name?: string | undefined;
  /** Take the place of a snapshot of this name; default false. It stays good until then. */
  replace?: boolean | undefined;
  /** An archive with more content than that, unpacked, is refused; default 64 GiB. */
  maxBytes?: number | undefined;
  /** Gives up; nothing has changed then. */
  signal?: AbortSignal | undefined;
}

export interface ResolvedExport {
  name: string;
  target: string | Writable;
  compress: boolean;
  signal?: AbortSignal | undefined;
}

export interface ResolvedImport {
  source: string | AsyncIterable<Uint8Array>;
  name?: string | undefined;
  replace: boolean;
  maxBytes: number;
  signal?: AbortSignal | undefined;
}

/** What {@link Sandbox.fork} takes; the rest is as in the sandbox that is copied. */
export type ForkOptions = Omit<
  SandboxOptions,
  | 'snapshot'
  | 'image'
  | 'pullPolicy'
  | 'registryAuth'
  | 'registry'
  | 'maxCpus'
  | 'memoryMib'
  | 'maxMemoryMib'
  | 'rootDiskMib'
  | 'kernel'
  | 'securityProfile'
  | 'init'
  | 'warmStart'
  | 'vmFactory'
>;

const save: z.ZodMiniType<ResolvedSaveOptions> = z.strictObject({
  name: sandboxName,
  description: z._default(z.string().check(z.maxLength(MAX_DESCRIPTION)), ''),
  labels: z._default(labels, {}),
  replace: z._default(z.boolean(), false),
  signal: z.optional(abortSignal),
});

const list: z.ZodMiniType<{ labels: Record<string, string> }> = z.strictObject({
  labels: z._default(labels, {}).check(z.describe('all of them must match')),
});

const writable = z.custom<Writable>(
  (value) => typeof (value as Writable | null)?.write === 'function',
  'must be a path or a writable stream',
);

const readable = z.custom<AsyncIterable<Uint8Array>>(
  (value) => typeof Object(value)[Symbol.asyncIterator] === 'function',
  'must be a path or a readable stream',
);

const exporting: z.ZodMiniType<ResolvedExport> = z.strictObject({
  name: sandboxName,
  target: z.union([hostPath, writable]),
  compress: z._default(z.boolean(), true),
  signal: z.optional(abortSignal),
});

const importing: z.ZodMiniType<ResolvedImport> = z.strictObject({
  source: z.union([hostPath, readable]),
  name: z.optional(sandboxName),
  replace: z._default(z.boolean(), false),
  maxBytes: z._default(z.int().check(z.gte(1)), DEFAULT_IMPORT_BYTES),
  signal: z.optional(abortSignal),
});

export function parseExport(name: unknown, target: unknown, input: unknown): ResolvedExport {
  return parseConfig(exporting, withFields(input, { name, target }), 'invalid export options');
}

export function parseImport(source: unknown, input: unknown): ResolvedImport {
  return parseConfig(importing, withFields(input, { source }), 'invalid import options');
}

export function parseSaveOptions(name: unknown, input: unknown): ResolvedSaveOptions {
  return parseConfig(save, withFields(input, { name }), 'invalid snapshot options');
}

export function parseSnapshotList(input: unknown): { labels: Record<string, string> } {
  return parseConfig(list, input ?? {}, 'invalid list options');
}

export function parseSnapshotName(input: unknown): string {
  return parseConfig(
    z.strictObject({ name: sandboxName }),
    { name: input },
    'invalid snapshot name',
  ).name;
}

function withFields(input: unknown, fields: object): unknown {
  if (input === undefined) return fields;
  return typeof input === 'object' && input !== null ? { ...input, ...fields } : input;
}

/** Decided when the machine was made; a boot can change all but the size of the disk. */
const FIXED_BY_DISK = ['rootDiskMib'] as const;
const FIXED_BY_MEMORY = [
  ...FIXED_BY_DISK,
  'maxCpus',
  'memoryMib',
  'maxMemoryMib',
  'kernel',
  'securityProfile',
  'init',
] as const;
/** What a copy has from its origin. The rest is about the one sandbox. */
const INHERITED = [
  ...FIXED_BY_MEMORY,
  'cpus',
  'image',
  'entrypoint',
  'env',
  'workdir',
  'user',
  'shell',
  'scripts',
] as const;

/** How a copy starts is decided by what it is a copy of. */
const DECIDED = [
  'image',
  'pullPolicy',
  'registryAuth',
  'registry',
  'warmStart',
  'vmFactory',
] as const;

/** Options that leave no choice to a snapshot are refused, whatever else they may be. */
export function refuseWithSnapshot(input: unknown): void {
  const given = (input ?? {}) as Record<string, unknown>;
  if (typeof given !== 'object' || given.snapshot === undefined) return;
  refuseDecided(given, 'snapshot');
}

/** The options of a sandbox that goes on from one with the options `origin`. */
export function inheritOptions(
  kind: 'memory' | 'disk',
  origin: SandboxOptions,
  input: SandboxOptions,
  what: 'snapshot' | 'fork',
): SandboxOptions {
  refuseDecided(input as Record<string, unknown>, what);
  const before = parseSandboxOptions(pick(origin, INHERITED));
  const { snapshot: _snapshot, ...own } = input;
  // What is given is possible beside what is not.
  const asked = parseSandboxOptions({ ...own, memoryMib: own.memoryMib ?? origin.memoryMib });
  for (const key of kind === 'memory' ? FIXED_BY_MEMORY : FIXED_BY_DISK) {
    if (own[key] !== undefined && !same(before, asked, key)) throw fixed(key, what);
  }
  const fromMemory = kind === 'memory';
  if (fromMemory && own.cpus !== undefined && own.cpus > before.maxCpus) throw fixed('cpus', what);
  const given = Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined));
  const merged: SandboxOptions = { ...pick(origin, INHERITED), ...given };
  // With fewer CPUs on line there are no fewer of them.
  if (fromMemory) merged.maxCpus = before.maxCpus;
  // Another size is another machine, which grows only where it is asked to.
  else if (own.memoryMib !== undefined) merged.maxMemoryMib = own.maxMemoryMib;
  if (origin.env !== undefined) merged.env = { ...origin.env, ...own.env };
  const mounts = { ...memoryMounts(origin.mounts), ...own.mounts };
  if (Object.keys(mounts).length > 0) merged.mounts = mounts;
  if (origin.scripts !== undefined) merged.scripts = { ...origin.scripts, ...own.scripts };
  return merged;
}

/** Whether options on record of a snapshot are any, and what makes them of use on one host alone. */
export function checkOrigin(origin: SandboxOptions): {
  options: ResolvedSandboxOptions;
  hostPath: 'image' | 'kernel' | undefined;
} {
  const options = parseSandboxOptions(pick(origin, INHERITED));
  const { image, kernel } = options;
  if (kernel.path !== undefined) return { options, hostPath: 'kernel' };
  const isDisk = typeof image === 'object' && 'disk' in image;
  return { options, hostPath: isDisk ? 'image' : undefined };
}

function refuseDecided(given: Record<string, unknown>, what: 'snapshot' | 'fork'): void {
  const option = DECIDED.find((key) => given[key] !== undefined);
  if (option === undefined) return;
  throw new ConfigError(
    'ERR_INVALID_CONFIG',
    `invalid sandbox options: ${option} has no meaning with a ${what}: leave one of them out`,
    { context: { option } },
  );
}

function fixed(option: string, what: 'snapshot' | 'fork'): ConfigError {
  return new ConfigError(
    'ERR_INVALID_CONFIG',
    `invalid sandbox options: ${option} cannot be changed by a ${what}, only by a new sandbox`,
    { context: { option } },
  );
}

function same(
  a: ResolvedSandboxOptions,
  b: ResolvedSandboxOptions,
  key: (typeof FIXED_BY_MEMORY)[number],
): boolean {
  return JSON.stringify(a[key]) === JSON.stringify(b[key]);
}

function pick(from: SandboxOptions, keys: readonly (keyof SandboxOptions)[]): SandboxOptions {
  return Object.fromEntries(
    keys.flatMap((key) => (from[key] === undefined ? [] : [[key, from[key]]])),
  );
}
