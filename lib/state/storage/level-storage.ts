/**
 * Records in a LevelDB. One process at a time can have a LevelDB open, and
 * several are to use one home: it is opened for a burst of calls, closed when
 * there are none, and waited for while another process has it.
 */
import type { ClassicLevel } from 'classic-level';
import { HostError } from '../../errors.js';
import { ensureDirectory, stateError } from '../home.js';
import { checkKey, corruptRecord, type JsonValue, type Storage } from './storage.js';

type Database = ClassicLevel<string, string>;

/** How long calls may follow each other without the database being opened anew. */
const LINGER_MS = 20;
/** How long another process may keep the database. */
const BUSY_MS = 10_000;
const RETRY_MS = 5;

export class LevelStorage implements Storage {
  readonly directory: string;
  #database: Promise<Database> | undefined;
  #users = 0;
  #linger: NodeJS.Timeout | undefined;
  #closing: Promise<void> = Promise.resolve();

  constructor(directory: string) {
    this.directory = directory;
  }

  async save(key: string, value: JsonValue): Promise<void> {
    checkKey(key);
    const text = JSON.stringify(value);
    await this.#use('write', (database) => database.put(key, text, { sync: true }));
  }

  async load(key: string): Promise<JsonValue | undefined> {
    checkKey(key);
    const text = await this.#use('read', (database) => database.get(key));
    if (text === undefined) return undefined;
    try {
      return JSON.parse(text) as JsonValue;
    } catch (cause) {
      throw corruptRecord(key, this.directory, cause);
    }
  }

  async delete(key: string): Promise<void> {
    checkKey(key);
    await this.#use('write', (database) => database.del(key, { sync: true }));
  }

  async list(prefix: string): Promise<string[]> {
    checkKey(prefix);
    // "0" is the character after "/".
    const range = { gt: `${prefix}/`, lt: `${prefix}0` };
    return this.#use('read', (database) => database.keys(range).all());
  }

  async #use<Value>(action: string, run: (database: Database) => Promise<Value>): Promise<Value> {
    this.#users += 1;
    clearTimeout(this.#linger);
    try {
      const opening = this.#database ?? this.#open();
      this.#database = opening;
      return await run(await opening);
    } catch (error) {
      throw error instanceof HostError ? error : stateError(action, this.directory, reason(error));
    } finally {
      this.#users -= 1;
      if (this.#users === 0) this.#linger = setTimeout(() => this.#close(), LINGER_MS);
    }
  }

  async #open(): Promise<Database> {
    try {
      await this.#closing;
      const [{ ClassicLevel }] = await Promise.all([
        import('classic-level'),
        ensureDirectory(this.directory),
      ]);
      const database: Database = new ClassicLevel(this.directory, { valueEncoding: 'utf8' });
      const deadline = performance.now() + BUSY_MS;
      for (;;) {
        const error = await database.open().then(
          () => undefined,
          (cause: unknown) => reason(cause),
        );
        if (error === undefined) return database;
        if (error.code !== 'LEVEL_LOCKED' || performance.now() > deadline) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS * (1 + Math.random())));
      }
    } catch (error) {
      // The next call tries again.
      this.#database = undefined;
      throw error;
    }
  }

  #close(): void {
    const database = this.#database;
    if (database === undefined) return;
    this.#database = undefined;
    this.#closing = database.then((open) => open.close()).catch(() => {});
  }
}

/** Why the database did not open: what is thrown only says that it did not. */
function reason(error: unknown): NodeJS.ErrnoException {
  const { cause } = error as Error;
  return (cause instanceof Error ? cause : error) as NodeJS.ErrnoException;
}
