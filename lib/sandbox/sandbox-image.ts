/** The image that a sandbox starts from: its root, and what it says about how programs are run. */
import { open } from 'node:fs/promises';
import type { ImageOption, ImageProgressEvent } from '../config/image.js';
import {
  isSandboxLabel,
  MAX_LABELS,
  type ResolvedSandboxOptions,
  type SandboxOptions,
} from '../config/sandbox.js';
import { ImageError } from '../errors.js';
import type { ImageConfig } from '../image/store/image-config.js';
import { type ImagePin, newPin, readPin } from '../state/image-pin.js';
import type { RootBase } from './vm/boot-assets.js';

/** Pulled, and removed by somebody before it was put on record as used: more is unheard of. */
const MAX_REMOVALS = 3;
const PROBE_BYTES = 4096;
const SUPERBLOCK_AT = 1024;
/** EROFS_SUPER_MAGIC_V1 and EXT4_SUPER_MAGIC of the kernel's magic.h. */
const EROFS_MAGIC = 0xe0f5e1e2;
const EXT4_MAGIC = 0xef53;
const EXT4_MAGIC_AT = SUPERBLOCK_AT + 0x38;

/** What a sandbox has in place of the built-in base. */
export interface SandboxRoot {
  base: RootBase;
  /** `undefined`: it is a disk of the caller's. */
  pin?: ImagePin | undefined;
  config?: ImageConfig | undefined;
}

type Wanted = Pick<
  ResolvedSandboxOptions,
  'image' | 'pullPolicy' | 'registryAuth' | 'registry' | 'signal'
>;

/** The root of a new sandbox; `undefined`: the built-in base. */
export async function rootOf(
  { image, pullPolicy, registryAuth, registry, signal }: Wanted,
  report: (event: ImageProgressEvent) => void,
): Promise<SandboxRoot | undefined> {
  if (image === undefined) return undefined;
  if (typeof image === 'object' && 'disk' in image) return { base: await diskBase(image.disk) };
  const { pull } = await import('../image/store/pull.js');
  const { openSource, referenceOf, storedName } = await import('../image/store/open-source.js');
  const { record, config, rootPath } = await pull({
    reference: referenceOf(image),
    name: await storedName(image),
    policy: pullPolicy,
    open: () => openSource(image, registryAuth, registry),
    report,
    signal,
  });
  const { entrypoint, cmd, labels } = config;
  const { digest, root } = record;
  const pin = newPin({
    reference: referenceOf(image),
    digest,
    root,
    config: { entrypoint, cmd, labels },
  });
  return { base: { path: rootPath, fstype: 'erofs' }, pin, config };
}

/** The same again, of a sandbox that was made before: `pin` is what is on record of it. */
export async function rootAgain(
  pin: ImagePin | undefined,
  image: ImageOption | undefined,
): Promise<SandboxRoot | undefined> {
  if (pin !== undefined) {
    const { requireRoot } = await import('../image/store/pin.js');
    return { base: { path: await requireRoot(pin), fstype: 'erofs' }, pin };
  }
  if (typeof image !== 'object' || !('disk' in image)) return undefined;
  return { base: await diskBase(image.disk) };
}

/** The root of the sandbox in a directory. */
export async function rootIn(
  directory: string,
  image: ImageOption | undefined,
): Promise<SandboxRoot | undefined> {
  return image === undefined ? undefined : rootAgain(await readPin(directory), image);
}

/** Puts on record which image the sandbox in `directory` has; `again` looks it up once more. */
export async function pinRoot(
  directory: string,
  root: SandboxRoot | undefined,
  again: () => Promise<SandboxRoot | undefined>,
): Promise<SandboxRoot | undefined> {
  if (root?.pin === undefined) return root;
  const { requireRoot, writePin } = await import('../image/store/pin.js');
  let current: SandboxRoot | undefined = root;
  for (let attempt = 1; ; attempt += 1) {
    if (current?.pin === undefined || (await writePin(directory, current.pin))) return current;
    if (attempt === MAX_REMOVALS) await requireRoot(current.pin);
    current = await again();
  }
}

/** Options as given, over what the image says. */
export function withImageConfig(
  input: SandboxOptions,
  config: ImageConfig | undefined,
): SandboxOptions {
  if (config === undefined) return input;
  const { env, user, workdir } = config;
  const labels = Object.entries(config.labels).filter(([key, value]) => isSandboxLabel(key, value));
  const own = Object.keys(input.labels ?? {}).length;
  const room = Math.max(0, MAX_LABELS - own);
  return {
    ...input,
    env: { ...env, ...input.env },
    ...(input.user === undefined && user !== undefined ? { user } : {}),
    ...(input.workdir === undefined && workdir !== undefined ? { workdir } : {}),
    labels: { ...Object.fromEntries(labels.slice(0, room)), ...input.labels },
  };
}

async function diskBase(path: string): Promise<RootBase> {
  return { path, fstype: await fileSystemOf(path) };
}

async function fileSystemOf(path: string): Promise<RootBase['fstype']> {
  const head = Buffer.alloc(PROBE_BYTES);
  try {
    const file = await open(path, 'r');
    try {
      await file.read(head, 0, PROBE_BYTES, 0);
    } finally {
      await file.close();
    }
  } catch (cause) {
    const { code: errno, syscall, message } = cause as NodeJS.ErrnoException;
    throw new ImageError('ERR_IMAGE_READ', `cannot read the disk ${path}: ${errno ?? message}`, {
      cause,
      errno,
      syscall,
      context: { path },
    });
  }
  if (head.readUInt32LE(SUPERBLOCK_AT) === EROFS_MAGIC) return 'erofs';
  if (head.readUInt16LE(EXT4_MAGIC_AT) === EXT4_MAGIC) return 'ext4';
  throw new ImageError(
    'ERR_IMAGE_INVALID',
    `the disk ${path} has neither an ext4 nor an EROFS file system at its beginning. Convert it to ` +
      'a raw image of the file system, without a partition table',
    { context: { path } },
  );
}
