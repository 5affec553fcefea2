/**
 * Which image a sandbox has: `image.json` in its directory. As long as it is there the image stays,
 * and the sandbox has the same root each time it starts.
 */
import { open, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from '../config/zod.js';
import { HostError } from '../errors.js';
import { ignore, isMissing, syncDirectory } from './durable.js';
import { stateError } from './home.js';

const PIN_FILE = 'image.json';
const INCOMING = '.image.json';
const VERSION = 1;
const OWNER_ONLY = 0o600;

/** How programs of the image are run, as far as it is not an option of the sandbox. */
export interface ImagePin {
  version: number;
  /** What it was asked for by. */
  reference: string;
  /** Of the manifest. */
  digest: string;
  /** Key of the root. */
  root: string;
  config: { entrypoint: string[]; cmd: string[]; labels: Record<string, string> };
}

const texts = z.array(z.string());
const digits = z.string().check(z.regex(/^[0-9a-f]{64}$/));

export const imagePin: z.ZodMiniType<ImagePin> = z.strictObject({
  version: z.int().check(z.gte(VERSION), z.lte(VERSION)),
  reference: z.string(),
  digest: z.string().check(z.regex(/^sha256:[0-9a-f]{64}$/)),
  root: digits,
  config: z.strictObject({
    entrypoint: texts,
    cmd: texts,
    labels: z.record(z.string(), z.string()),
  }),
});

export function newPin(pin: Omit<ImagePin, 'version'>): ImagePin {
  return { version: VERSION, ...pin };
}

/** Puts the pin into the directory of a sandbox that this process holds; see also `syncPin`. */
export async function savePin(directory: string, pin: ImagePin): Promise<void> {
  const path = join(directory, PIN_FILE);
  try {
    await writeFile(join(directory, INCOMING), JSON.stringify(pin), { mode: OWNER_ONLY });
    await rename(join(directory, INCOMING), path);
  } catch (cause) {
    throw stateError('write', path, cause);
  }
}

/** A pin, where one was written, survives a crash of the host from here. */
export async function syncPin(directory: string): Promise<void> {
  const path = join(directory, PIN_FILE);
  try {
    const file = await open(path, 'r').catch(ignore('ENOENT'));
    if (file === undefined) return;
    try {
      await file.datasync();
    } finally {
      await file.close();
    }
    await syncDirectory(directory);
  } catch (cause) {
    throw stateError('write', path, cause);
  }
}

/** `undefined`: the sandbox has the built-in base. */
export async function readPin(directory: string): Promise<ImagePin | undefined> {
  const path = join(directory, PIN_FILE);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (isMissing(cause)) return undefined;
    throw stateError('read', path, cause);
  }
  const parsed = imagePin.safeParse(jsonOf(text));
  if (parsed.success) return parsed.data;
  throw new HostError(
    'ERR_STATE_CORRUPT',
    `${path} cannot be read; it was damaged from outside. Restore it, or remove the sandbox`,
    { context: { path } },
  );
}

/** Names of sandboxes by the roots that they have. `sandboxes` is the directory of all. */
export async function pinsBelow(sandboxes: string): Promise<Map<string, string[]>> {
  const users = new Map<string, string[]>();
  const names = await readdir(sandboxes).catch((error: unknown) => {
    if (isMissing(error)) return [];
    throw stateError('read', sandboxes, error);
  });
  for (const name of names) {
    if (name.startsWith('.')) continue;
    const pin = await readPin(join(sandboxes, name));
    if (pin !== undefined) users.set(pin.root, [...(users.get(pin.root) ?? []), name]);
  }
  return users;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
