/** Options of images, and what is told while one is pulled. */
import { resolve } from 'node:path';
import { abortSignal, cleanText, hostPath } from './common.js';
import { parseConfig } from './parse.js';
import {
  type RegistryCredentials,
  type RegistryOptions,
  registryCredentials,
  registryOptions,
} from './registry.js';
import * as z from './zod.js';

/** What is told to `onProgress` while an image is pulled, in this order; layers side by side. */
export type ImageProgressEvent =
  | { type: 'resolving'; reference: string }
  | { type: 'resolved'; reference: string; digest: string; layers: number; totalBytes: number }
  | {
      type: 'layer';
      digest: string;
      /** `done`: fetched, unpacked and verified. */
      status: 'started' | 'progress' | 'done';
      receivedBytes: number;
      totalBytes: number;
      /** Only of `done`: it was in the store. */
      cached?: boolean;
    }
  | { type: 'converting'; digest: string; totalBytes: number }
  /** `cached`: the image was in the store. */
  | { type: 'done'; reference: string; digest: string; cached: boolean };

export type PullPolicy = 'always' | 'if-missing' | 'never';

/** Where the root of a sandbox comes from. */
export type ImageOption =
  /** `python:3.12`, of a registry. */
  | string
  /** A file of `docker save`, or an OCI archive; `reference` chooses one of several images. */
  | { archive: string; reference?: string | undefined }
  /** A directory in the OCI layout. */
  | { layout: string; reference?: string | undefined }
  /** A directory of this host, which is copied. */
  | { rootfs: string }
  /** A raw disk with an ext4 or EROFS file system, which is never written to. */
  | { disk: string };

export interface PullOptions {
  /** Default `always`: the registry is asked whether the name stands for another image now. */
  policy?: PullPolicy | undefined;
  auth?: RegistryCredentials | undefined;
  /** Mirrors, trust roots, time limits. */
  registry?: RegistryOptions | undefined;
  onProgress?: ((event: ImageProgressEvent) => void) | undefined;
  signal?: AbortSignal | undefined;
}

export interface LoadOptions {
  /** Only this one of several images. */
  reference?: string | undefined;
  onProgress?: ((event: ImageProgressEvent) => void) | undefined;
  signal?: AbortSignal | undefined;
}

export interface PruneOptions {
  /** How much may stay of what nobody uses, the most recently used first; default 0. */
  maxBytes?: number | undefined;
}

export interface SaveImageOptions {
  /** `docker` (default): as `docker save` writes it; `oci`: an OCI archive. */
  format?: 'docker' | 'oci' | undefined;
  signal?: AbortSignal | undefined;
}

const MAX_REFERENCE = 512;

export const imageReference: z.ZodMiniType<string> = cleanText.check(
  z.refine(
    (text) => text !== '' && text.length <= MAX_REFERENCE,
    `an image reference has 1 to ${MAX_REFERENCE} characters`,
  ),
);

export const imageOption: z.ZodMiniType<ImageOption> = z.union([
  imageReference,
  z.strictObject({ archive: hostPath, reference: z.optional(imageReference) }),
  z.strictObject({ layout: hostPath, reference: z.optional(imageReference) }),
  z.strictObject({ rootfs: hostPath }),
  z.strictObject({ disk: hostPath }),
]);

export const pullPolicy: z.ZodMiniType<PullPolicy> = z.enum(['always', 'if-missing', 'never']);

const onProgress = z.custom<(event: ImageProgressEvent) => void>(
  (value) => typeof value === 'function',
  { message: 'must be a function' },
);

const pull: z.ZodMiniType<PullOptions & { reference: string }> = z.strictObject({
  reference: imageReference,
  policy: z.optional(pullPolicy).check(z.describe('when the registry is asked')),
  auth: z.optional(registryCredentials).check(z.describe('who asks')),
  registry: z.optional(registryOptions).check(z.describe('how registries are reached')),
  onProgress: z.optional(onProgress),
  signal: z.optional(abortSignal),
});

const load: z.ZodMiniType<LoadOptions & { path: string }> = z.strictObject({
  path: hostPath,
  reference: z.optional(imageReference),
  onProgress: z.optional(onProgress),
  signal: z.optional(abortSignal),
});

const prune: z.ZodMiniType<{ maxBytes: number }> = z.strictObject({
  maxBytes: z
    ._default(z.int().check(z.gte(0)), 0)
    .check(z.describe('what may stay of what nobody uses')),
});

const save = z.strictObject({
  reference: imageReference,
  path: hostPath,
  format: z._default(z.enum(['docker', 'oci']), 'docker'),
  signal: z.optional(abortSignal),
});

export function parsePullOptions(
  name: unknown,
  input: unknown,
): PullOptions & { reference: string } {
  return parseConfig(pull, { ...Object(input), reference: name }, 'invalid pull options');
}

export function parseLoadOptions(path: unknown, input: unknown): LoadOptions & { path: string } {
  return parseConfig(load, { ...Object(input), path }, 'invalid load options');
}

export function parsePruneOptions(input: unknown): { maxBytes: number } {
  return parseConfig(prune, input ?? {}, 'invalid prune options');
}

export function parseSaveImageOptions(
  name: unknown,
  path: unknown,
  input: unknown,
): {
  reference: string;
  path: string;
  format: 'docker' | 'oci';
  signal?: AbortSignal | undefined;
} {
  return parseConfig(save, { ...Object(input), reference: name, path }, 'invalid save options');
}

export function parseImageReference(name: unknown): string {
  return parseConfig(
    z.strictObject({ reference: imageReference }),
    { reference: name },
    'invalid image reference',
  ).reference;
}

/** Whoever reads it later may have another working directory. */
export function withAbsolutePath(image: ImageOption): ImageOption {
  if (typeof image === 'string') return image;
  if ('archive' in image) return { ...image, archive: resolve(image.archive) };
  if ('layout' in image) return { ...image, layout: resolve(image.layout) };
  return 'rootfs' in image ? { rootfs: resolve(image.rootfs) } : { disk: resolve(image.disk) };
}
