// What it costs to save a guest, and to go on from it: the monitor's own share of a restore, how
// long a guest stands still, and what its agent needs until it has dialled in again.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Machine } from '../../dist/machine/index.js';
import { bootToAgent, dialIn } from '../lib/guest.mjs';
import { round, summarize } from '../lib/statistics.mjs';

const MEMORY_MIB = 512;
const RESTORES = 20;
const SNAPSHOTS = 5;
const NS_PER_MS = 1e6;

const metric = (name, values, unit) => {
  const { median, min, max } = summarize(values);
  return { name, value: round(median), unit, min: round(min), max: round(max) };
};

/** From the call in the addon to the first guest instruction, and to the agent's dial. */
async function timeRestores(directory) {
  const vmm = [];
  const dial = [];
  let instructions = null;
  for (let run = 0; run < RESTORES; run++) {
    const machine = await Machine.restore(directory);
    const dialled = dialIn(machine);
    const resumedAt = performance.now();
    await machine.resume();
    await dialled;
    dial.push(performance.now() - resumedAt);
    const stats = machine.stats();
    vmm.push(stats.setupNs / NS_PER_MS);
    const { emulatedInstructions } = stats.vcpus[0];
    if (emulatedInstructions >= 0) instructions = emulatedInstructions;
    await machine.close();
  }
  return { vmm, dial, instructions };
}

async function timeSnapshots(machine, directory, kind) {
  const total = [];
  const pause = [];
  for (let run = 0; run < SNAPSHOTS; run++) {
    const startedAt = performance.now();
    const report = await machine.snapshot(directory, { kind });
    if (report.kind !== kind) throw new Error(`asked for a ${kind} snapshot, got ${report.kind}`);
    total.push(performance.now() - startedAt);
    pause.push(report.pauseNs / NS_PER_MS);
  }
  return { total, pause };
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  const directory = mkdtempSync(join(tmpdir(), 'embervm-bench-'));
  try {
    note(`booting a guest of ${MEMORY_MIB} MiB…`);
    const { machine } = await bootToAgent({ memoryMib: MEMORY_MIB });
    note(`taking ${SNAPSHOTS} full snapshots…`);
    const full = await timeSnapshots(machine, join(directory, 'full'), 'full');
    await machine.close();
    note(`restoring ${RESTORES} machines…`);
    const restores = await timeRestores(join(directory, 'full'));
    note(`taking ${SNAPSHOTS} diff snapshots of a restored one…`);
    const clone = await Machine.restore(join(directory, 'full'));
    const dialled = dialIn(clone);
    await clone.resume();
    await dialled;
    const diff = await timeSnapshots(clone, join(directory, 'diff'), 'diff');
    await clone.close();
    return [
      metric('restore_vmm_ms', restores.vmm, 'ms'),
      metric('restore_to_agent_ms', restores.dial, 'ms'),
      {
        name: 'guest_instructions_to_redial',
        value: restores.instructions,
        unit: 'instructions',
      },
      metric('snapshot_ms', full.total, 'ms'),
      metric('snapshot_full_pause_ms', full.pause, 'ms'),
      metric('snapshot_pause_ms', diff.pause, 'ms'),
    ];
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
