/** What is on record of images, and of their names. A record is there when its image is complete. */
import { stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from '../../config/zod.js';
import { EmbervmError } from '../../errors.js';
import { FileStorage } from '../../state/storage/file-storage.js';
import type { JsonValue } from '../../state/storage/storage.js';
import { storeWriteError } from './errors.js';
import { type ImageConfig, parseImageConfig } from './image-config.js';
import { hashOf, hexOf, imagesDirectory, rootPath } from './places.js';

const VERSION = 1;
const MANIFESTS = 'manifests';
const REFS = 'refs';

export interface StoredLayer {
  digest: string;
  size: number;
  mediaType: string;
  diffId: string;
  unpackedBytes: number;
}

export interface ImageRecord {
  version: number;
  /** Of the manifest: this is the image's. */
  digest: string;
  configDigest: string;
  /** As they came, in base64: their digests are of these bytes. */
  manifest: string;
  config: string;
  layers: StoredLayer[];
  /** Of the EROFS image. */
  root: string;
  rootBytes: number;
  /** ms since the epoch. */
  pulledAt: number;
}

interface RefRecord {
  version: number;
  reference: string;
  digest: string;
}

/** An image of the store, as it is read. */
export interface StoredImage {
  record: ImageRecord;
  config: ImageConfig;
  rootPath: string;
  lastUsedAt: number;
}

const digest = z.string().check(z.regex(/^sha256:[0-9a-f]{64}$/));
const count = z.int().check(z.gte(0));

const layer = z.strictObject({
  digest,
  size: count,
  mediaType: z.string(),
  diffId: digest,
  unpackedBytes: count,
});

const image: z.ZodMiniType<ImageRecord> = z.strictObject({
  version: z.int().check(z.gte(VERSION), z.lte(VERSION)),
  digest,
  configDigest: digest,
  manifest: z.string(),
  config: z.string(),
  layers: z.array(layer),
  root: z.string().check(z.regex(/^[0-9a-f]{64}$/)),
  rootBytes: count,
  pulledAt: count,
});

const ref: z.ZodMiniType<RefRecord> = z.strictObject({
  version: z.int().check(z.gte(VERSION), z.lte(VERSION)),
  reference: z.string(),
  digest,
});

function storage(): FileStorage {
  return new FileStorage(imagesDirectory());
}

export async function saveImage(record: Omit<ImageRecord, 'version'>): Promise<void> {
  const key = `${MANIFESTS}/${hexOf(record.digest)}`;
  const whole: ImageRecord = { version: VERSION, ...record };
  await saved(key, { ...whole, layers: whole.layers.map((one) => ({ ...one })) });
}

export async function saveRef(reference: string, imageDigest: string): Promise<void> {
  await saved(refKey(reference), { version: VERSION, reference, digest: imageDigest });
}

async function saved(key: string, value: { [key: string]: JsonValue }): Promise<void> {
  try {
    await storage().save(key, value);
  } catch (error) {
    // The disk that is full is the store's, whatever it is full of.
    const cause = error instanceof EmbervmError ? error.cause : error;
    throw storeWriteError('write', join(imagesDirectory(), key), cause ?? error);
  }
}

/** The digest that a name stands for; `undefined` where nothing was pulled by it. */
export async function loadRef(reference: string): Promise<string | undefined> {
  const record = await loaded(refKey(reference), ref);
  return record?.reference === reference ? record.digest : undefined;
}

/** `undefined` also where a part of it is not there, or damaged: it is to be pulled again then. */
export async function loadImage(imageDigest: string): Promise<StoredImage | undefined> {
  const hex = hexOf(imageDigest);
  const record = await loaded(`${MANIFESTS}/${hex}`, image);
  if (record === undefined || record.digest !== imageDigest) return undefined;
  const root = rootPath(record.root);
  try {
    const [{ size }, { mtimeMs: lastUsedAt }] = await Promise.all([
      stat(root),
      stat(recordPath(hex)),
    ]);
    if (size !== record.rootBytes) return undefined;
    const config = parseImageConfig(Buffer.from(record.config, 'base64'), record.configDigest);
    return { record, config, rootPath: root, lastUsedAt };
  } catch {
    return undefined;
  }
}

/** For whoever looks for the least recently used one. */
export async function touchImage(imageDigest: string): Promise<void> {
  const now = new Date();
  await utimes(recordPath(hexOf(imageDigest)), now, now).catch(() => {});
}

/** All that can be used, in no order. */
export async function loadImages(): Promise<StoredImage[]> {
  const keys = await storage().list(MANIFESTS);
  const all = await Promise.all(keys.map((key) => loadImage(`sha256:${lastOf(key)}`)));
  return all.filter((one) => one !== undefined);
}

/** Digests of all names. */
export async function loadRefs(): Promise<Map<string, string>> {
  const keys = await storage().list(REFS);
  const all = await Promise.all(keys.map((key) => loaded(key, ref)));
  return new Map(all.flatMap((one) => (one === undefined ? [] : [[one.reference, one.digest]])));
}

export async function deleteImage(imageDigest: string): Promise<void> {
  await storage().delete(`${MANIFESTS}/${hexOf(imageDigest)}`);
}

export async function deleteRef(reference: string): Promise<void> {
  await storage().delete(refKey(reference));
}

async function loaded<Value>(
  key: string,
  schema: z.ZodMiniType<Value>,
): Promise<Value | undefined> {
  try {
    const parsed = schema.safeParse(await storage().load(key));
    return parsed.success ? parsed.data : undefined;
  } catch (error) {
    // What was damaged from outside is pulled again.
    if (error instanceof EmbervmError && error.code === 'ERR_STATE_CORRUPT') return undefined;
    throw error;
  }
}

function refKey(reference: string): string {
  return `${REFS}/${hashOf(reference)}`;
}

function recordPath(hex: string): string {
  return join(imagesDirectory(), MANIFESTS, `${hex}.json`);
}

function lastOf(key: string): string {
  return key.slice(key.lastIndexOf('/') + 1);
}
