// From a saved guest to its next line. Both map the saved memory privately instead of reading it.
// QEMU is a new process each time; embervm is the process that asks.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Machine } from '../../dist/machine/index.js';
import { measureInChild } from '../lib/child.mjs';
import { comparison, inTurns } from '../lib/compare.mjs';
import { printed } from '../lib/console.mjs';
import { ALIVE, BOOT_TIMEOUT_MS, prepare, untilNotStuck } from './setting.mjs';

const PAIRS = 12;
/** What the boot left to do is done by then. */
const SETTLE_MS = 2_000;
const RESTORE_TIMEOUT_MS = 30_000;

async function saveOurs(setting, directory) {
  const machine = await setting.createOurs();
  try {
    await machine.start();
    await printed(machine, ALIVE, BOOT_TIMEOUT_MS);
    await sleep(SETTLE_MS);
    await machine.snapshot(directory);
  } finally {
    await machine.close();
  }
}

async function saveTheirs(setting, { memory, state }) {
  const machine = setting.createTheirs({ memory: { path: memory, shared: true } });
  try {
    await machine.printed(ALIVE, BOOT_TIMEOUT_MS);
    await sleep(SETTLE_MS);
    await machine.negotiate();
    await machine.save(state);
  } finally {
    await machine.close();
  }
}

async function restoreOurs(directory) {
  const startedAt = performance.now();
  const machine = await Machine.restore(directory);
  try {
    // Its console begins empty.
    await machine.resume();
    await printed(machine, ALIVE, RESTORE_TIMEOUT_MS);
    return performance.now() - startedAt;
  } finally {
    await machine.close();
  }
}

async function restoreTheirs(setting, { memory, state }) {
  const startedAt = performance.now();
  const machine = setting.createTheirs({ memory: { path: memory, shared: false }, incoming: true });
  try {
    await machine.load(state);
    await machine.printed(ALIVE, RESTORE_TIMEOUT_MS);
    return performance.now() - startedAt;
  } finally {
    await machine.close();
  }
}

/** A new process of Node for each restore: what a program pays that does nothing else. */
async function restoreInNewProcess(directory) {
  const startedAt = performance.now();
  const { aliveAt } = await measureInChild('restore-alive', [], [directory]);
  return aliveAt - performance.timeOrigin - startedAt;
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  const setting = await prepare();
  const directory = mkdtempSync(join(tmpdir(), 'embervm-bench-'));
  try {
    const saved = join(directory, 'ours');
    const files = { memory: join(directory, 'memory'), state: join(directory, 'state') };
    note('saving a guest of embervm and one of QEMU…');
    await saveOurs(setting, saved);
    await untilNotStuck(() => saveTheirs(setting, files), note);
    await restoreOurs(saved);
    await restoreTheirs(setting, files);
    const theirs = () => restoreTheirs(setting, files);
    const within = await inTurns(PAIRS, { ours: () => restoreOurs(saved), theirs, note });
    note('the same with a process of Node for each restore');
    const apart = await inTurns(PAIRS, { ours: () => restoreInNewProcess(saved), theirs, note });
    return {
      version: setting.version,
      metrics: [
        comparison('restore_vs_qemu', 'ms', within),
        comparison('restore_with_node_vs_qemu', 'ms', apart),
      ],
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
