/**
 * Records as files: `a/b` is `<directory>/a/b.json`. A record is written beside
 * its place, synced and renamed into it, and the directory is synced after it,
 * so a crash at any instruction leaves the old record or the new one.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rmdir, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ignore, isMissing, syncDirectory, writeDurably } from '../durable.js';
import { stateError } from '../home.js';
import { checkKey, corruptRecord, type JsonValue, type Storage } from './storage.js';

const SUFFIX = '.json';
/** No key begins with a dot, so nothing that is on its way in can be taken for a record. */
const INCOMING = '.record-';
const OWNER_ONLY_DIRECTORY = 0o700;
/** A directory can be removed as empty between being made and being used. */
const MAX_ATTEMPTS = 16;

export class FileStorage implements Storage {
  readonly directory: string;

  constructor(directory: string) {
    this.directory = directory;
  }

  async save(key: string, value: JsonValue): Promise<void> {
    const path = this.#pathOf(key);
    const text = `${JSON.stringify(value, null, 2)}\n`;
    try {
      await this.#write(path, text);
    } catch (error) {
      throw stateError('write', path, error);
    }
  }

  async load(key: string): Promise<JsonValue | undefined> {
    const path = this.#pathOf(key);
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw stateError('read', path, error);
    }
    try {
      return JSON.parse(text) as JsonValue;
    } catch (cause) {
      throw corruptRecord(key, path, cause);
    }
  }

  async delete(key: string): Promise<void> {
    const path = this.#pathOf(key);
    try {
      await unlink(path);
    } catch (error) {
      if (isMissing(error)) return;
      throw stateError('remove', path, error);
    }
    await syncDirectory(dirname(path));
    await this.#removeEmpty(dirname(path));
  }

  async list(prefix: string): Promise<string[]> {
    checkKey(prefix);
    const keys: string[] = [];
    try {
      await collect(join(this.directory, prefix), prefix, keys);
    } catch (error) {
      throw stateError('read', join(this.directory, prefix), error);
    }
    return keys.sort();
  }

  #pathOf(key: string): string {
    checkKey(key);
    return join(this.directory, `${key}${SUFFIX}`);
  }

  async #write(path: string, text: string): Promise<void> {
    const parent = dirname(path);
    const incoming = join(parent, `${INCOMING}${randomUUID()}`);
    for (let attempt = 1; ; attempt += 1) {
      await makeDurably(parent);
      try {
        await writeDurably(incoming, text);
        await rename(incoming, path);
        await syncDirectory(parent);
        return;
      } catch (error) {
        await unlink(incoming).catch(() => {});
        if (!isMissing(error) || attempt === MAX_ATTEMPTS) throw error;
      }
    }
  }

  /** Up to the root of the storage, which stays. */
  async #removeEmpty(directory: string): Promise<void> {
    if (directory === this.directory || !directory.startsWith(this.directory)) return;
    try {
      await rmdir(directory);
    } catch {
      // It holds something else.
      return;
    }
    await this.#removeEmpty(dirname(directory));
  }
}

/** Makes `path` and what lacks above it; each entry is synced where it appears. */
async function makeDurably(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: OWNER_ONLY_DIRECTORY });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    const parent = dirname(path);
    if (code !== 'ENOENT' || parent === path) throw error;
    await makeDurably(parent);
    await mkdir(path, { mode: OWNER_ONLY_DIRECTORY }).catch(ignore('EEXIST'));
  }
  await syncDirectory(dirname(path));
}

async function collect(directory: string, prefix: string, keys: string[]): Promise<void> {
  const entries = await readdir(directory, { withFileTypes: true }).catch((error: unknown) => {
    if (isMissing(error)) return [];
    throw error;
  });
  for (const entry of entries) {
    if (entry.name.startsWith('.')) continue;
    if (entry.isDirectory()) {
      await collect(join(directory, entry.name), `${prefix}/${entry.name}`, keys);
    } else if (entry.isFile() && entry.name.endsWith(SUFFIX)) {
      keys.push(`${prefix}/${entry.name.slice(0, -SUFFIX.length)}`);
    }
  }
}
