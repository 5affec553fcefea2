/** Which storage the records of this process are kept in. */
import { join } from 'node:path';
import { ConfigError } from '../../errors.js';
import { homeDirectory } from '../home.js';
import { FileStorage } from './file-storage.js';
import { LevelStorage } from './level-storage.js';
import type { Storage } from './storage.js';

/** The built-in storages. */
export type StorageName = 'filesystem' | 'leveldb';

const LEVEL_DIRECTORY = 'records.leveldb';

let chosen: Storage | StorageName | undefined;
const level = new Map<string, LevelStorage>();

/**
 * Chooses where the metadata of sandboxes is kept: a built-in storage, or one of your own. Without
 * an argument `EMBERVM_STORAGE` decides, and without that it is `filesystem`. Choose before the
 * first sandbox: records are not moved.
 */
export function setStorage(storage?: Storage | StorageName): void {
  if (typeof storage === 'string') checkName(storage);
  chosen = storage;
}

/** The storage of the home as it is now. */
export function currentStorage(): Storage {
  const choice = chosen ?? process.env.EMBERVM_STORAGE;
  if (typeof choice === 'object') return choice;
  const home = homeDirectory();
  if (choice === undefined || choice === '') return new FileStorage(home);
  checkName(choice);
  if (choice === 'filesystem') return new FileStorage(home);
  // One object for each database: a process cannot open one twice.
  let storage = level.get(home);
  if (storage === undefined) {
    storage = new LevelStorage(join(home, LEVEL_DIRECTORY));
    level.set(home, storage);
  }
  return storage;
}

function checkName(name: string): asserts name is StorageName {
  if (name === 'filesystem' || name === 'leveldb') return;
  throw new ConfigError(
    'ERR_INVALID_CONFIG',
    `the storage is ${JSON.stringify(name)}, but must be "filesystem" or "leveldb"`,
    { context: { option: 'storage' } },
  );
}
