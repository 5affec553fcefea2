/** What is on record of each sandbox: how it was created, and how it is. */
import { corruptRecord, type JsonValue, type Storage } from './storage/storage.js';
import type { SandboxStatus, StopReason, StopResult } from './types.js';

const ROOT = 'sandboxes';
const VERSION = 1;

/** Written once. A sandbox exists as long as this record does. */
export interface ConfigRecord {
  version: typeof VERSION;
  /** Tells a sandbox from a later one of its name. */
  id: string;
  name: string;
  /** ms since the epoch, with a fraction that keeps sandboxes of one moment in order. */
  createdAt: number;
  /** Nothing of it is kept when it has ended. */
  ephemeral: boolean;
  labels: { readonly [key: string]: string };
  /** The options of its creation, validated and with their defaults. */
  options: { readonly [key: string]: JsonValue };
}

/** Written at each change of the status. */
export interface StateRecord {
  version: typeof VERSION;
  status: SandboxStatus;
  /** The process that it ran in last. */
  pid: number;
  /** When it was ready for the first time; `null` when it never was. */
  firstReadyAt: number | null;
  updatedAt: number;
  /** How it ended last. */
  result: ResultRecord | null;
}

export interface ResultRecord {
  status: StopResult['status'];
  exitCode: number | null;
  signal: string | null;
  reason: StopReason;
  observedAt: number;
}

export class SandboxRecords {
  readonly #storage: Storage;

  constructor(storage: Storage) {
    this.#storage = storage;
  }

  /** Names of the sandboxes, whatever their state. */
  async names(): Promise<string[]> {
    const keys = await this.#storage.list(ROOT);
    return keys.flatMap((key) => {
      const [, name, record, ...more] = key.split('/');
      return record === 'config' && name !== undefined && more.length === 0 ? [name] : [];
    });
  }

  async config(name: string): Promise<ConfigRecord | undefined> {
    const key = keyOf(name, 'config');
    const value = await this.#storage.load(key);
    if (value === undefined) return undefined;
    if (!isConfig(value) || value.name !== name) throw corruptRecord(key, 'the storage');
    return value;
  }

  async saveConfig(config: ConfigRecord): Promise<void> {
    await this.#storage.save(keyOf(config.name, 'config'), { ...config });
  }

  async state(name: string): Promise<StateRecord | undefined> {
    const key = keyOf(name, 'state');
    const value = await this.#storage.load(key);
    if (value === undefined) return undefined;
    if (!isState(value)) throw corruptRecord(key, 'the storage');
    return value;
  }

  async saveState(name: string, state: StateRecord): Promise<void> {
    const result = state.result === null ? null : { ...state.result };
    await this.#storage.save(keyOf(name, 'state'), { ...state, result });
  }

  /** The configuration first: without it there is no sandbox. */
  async delete(name: string): Promise<void> {
    await this.#storage.delete(keyOf(name, 'config'));
    await this.#storage.delete(keyOf(name, 'state'));
  }
}

let lastCreation = 0;

/** The time of a creation: later than that of any before it in this process. */
export function creationTime(): number {
  lastCreation = Math.max(Date.now(), lastCreation + 0.001);
  return lastCreation;
}

export function newConfig(config: Omit<ConfigRecord, 'version'>): ConfigRecord {
  return { version: VERSION, ...config };
}

export function newState(status: SandboxStatus): StateRecord {
  return {
    version: VERSION,
    status,
    pid: process.pid,
    firstReadyAt: null,
    updatedAt: Date.now(),
    result: null,
  };
}

export function toResultRecord(result: StopResult): ResultRecord {
  const { status, exitCode, signal, reason, observedAt } = result;
  return { status, exitCode, signal, reason, observedAt: observedAt.getTime() };
}

export function fromResultRecord(name: string, record: ResultRecord): StopResult {
  const { status, exitCode, signal, reason } = record;
  return { name, status, exitCode, signal, reason, observedAt: new Date(record.observedAt) };
}

function keyOf(name: string, record: 'config' | 'state'): string {
  return `${ROOT}/${name}/${record}`;
}

type Fields = { readonly [key: string]: unknown };

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isConfig(value: unknown): value is ConfigRecord {
  if (!isFields(value)) return false;
  const { version, id, name, createdAt, ephemeral, labels, options } = value;
  return (
    version === VERSION &&
    typeof id === 'string' &&
    typeof name === 'string' &&
    typeof createdAt === 'number' &&
    typeof ephemeral === 'boolean' &&
    isFields(labels) &&
    Object.values(labels).every((label) => typeof label === 'string') &&
    isFields(options)
  );
}

const statuses: Readonly<Record<SandboxStatus, true>> = {
  created: true,
  starting: true,
  running: true,
  draining: true,
  paused: true,
  stopped: true,
  crashed: true,
};

function isState(value: unknown): value is StateRecord {
  if (!isFields(value)) return false;
  const { version, status, pid, firstReadyAt, updatedAt, result } = value;
  return (
    version === VERSION &&
    typeof status === 'string' &&
    Object.hasOwn(statuses, status) &&
    typeof pid === 'number' &&
    (firstReadyAt === null || typeof firstReadyAt === 'number') &&
    typeof updatedAt === 'number' &&
    (result === null || isResult(result))
  );
}

function isResult(value: unknown): value is ResultRecord {
  if (!isFields(value)) return false;
  const { status, reason, observedAt } = value;
  return (
    (status === 'stopped' || status === 'crashed') &&
    typeof reason === 'string' &&
    typeof observedAt === 'number'
  );
}
