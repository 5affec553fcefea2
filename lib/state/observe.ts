/** A sandbox as it is now, whichever process it runs in. Locks and changes nothing. */
import { HostError } from '../errors.js';
import { type ConfigRecord, newState, SandboxRecords, type StateRecord } from './records.js';
import { asHostExit, isHeld } from './sandbox-dir.js';
import { currentStorage } from './storage/choice.js';
import { isOver } from './types.js';

export interface Observation {
  config: ConfigRecord;
  state: StateRecord;
  /** Some process holds it. */
  held: boolean;
}

/** `undefined` when there is no such sandbox. */
export async function observe(name: string): Promise<Observation | undefined> {
  const records = new SandboxRecords(currentStorage());
  for (;;) {
    const config = await records.config(name);
    if (config === undefined) return undefined;
    const before = await records.state(name);
    const held = await isHeld(name);
    if (held) return { config, state: before ?? newState('starting'), held };
    // The last state is written before the lock is given back: unless there is a newer one now,
    // nobody wrote it.
    const state = await records.state(name);
    if (state?.updatedAt !== before?.updatedAt || state?.status !== before?.status) continue;
    if (state !== undefined && isOver(state.status)) return { config, state, held };
    // What a dead process was not asked to keep is not there, even before it is swept.
    if (config.ephemeral) return undefined;
    return { config, state: asHostExit(state ?? newState('starting')), held };
  }
}

/** All sandboxes whose records can be read, in no order. */
export async function observeAll(): Promise<Observation[]> {
  const names = await new SandboxRecords(currentStorage()).names();
  const all: Observation[] = [];
  for (const name of names) {
    const seen = await observe(name).catch(unlessDamaged);
    if (seen !== undefined) all.push(seen);
  }
  return all;
}

function unlessDamaged(error: unknown): undefined {
  if (error instanceof HostError && error.code === 'ERR_STATE_CORRUPT') return undefined;
  throw error;
}
