/** Writes the state of one sandbox, in order, and only the newest of what came meanwhile. */
import { newState, type SandboxRecords, type StateRecord, toResultRecord } from './records.js';
import type { SandboxStatus, StopResult } from './types.js';

export class StateWriter {
  readonly #records: SandboxRecords;
  readonly #name: string;
  #state: StateRecord;
  #dirty = false;
  #saving: Promise<void> | undefined;
  #failure: { error: unknown } | undefined;

  /** `previous` is the state of the last run, where there was one. */
  constructor(records: SandboxRecords, name: string, previous?: StateRecord) {
    this.#records = records;
    this.#name = name;
    this.#state = {
      ...newState('created'),
      firstReadyAt: previous?.firstReadyAt ?? null,
    };
  }

  get state(): StateRecord {
    return this.#state;
  }

  /** Takes effect at once here, and on disk a moment later. */
  set(status: SandboxStatus, result?: StopResult): void {
    const now = Date.now();
    const ready = status === 'running' ? now : null;
    this.#state = {
      ...this.#state,
      status,
      firstReadyAt: this.#state.firstReadyAt ?? ready,
      updatedAt: now,
      result: result === undefined ? this.#state.result : toResultRecord(result),
    };
    this.#dirty = true;
    this.#saving ??= this.#save();
  }

  /** Resolves when the state is on disk; rejects when the last attempt failed. */
  async flush(): Promise<void> {
    while (this.#saving !== undefined) await this.#saving;
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  async #save(): Promise<void> {
    while (this.#dirty) {
      this.#dirty = false;
      try {
        await this.#records.saveState(this.#name, this.#state);
        this.#failure = undefined;
      } catch (error) {
        this.#failure = { error };
      }
    }
    this.#saving = undefined;
  }
}
