// From nothing to the first line of the guest's first program, and the memory that it then takes.
import { setTimeout as sleep } from 'node:timers/promises';
import { comparison, inTurns } from '../lib/compare.mjs';
import { printed } from '../lib/console.mjs';
import { summarize } from '../lib/statistics.mjs';
import { ALIVE, BOOT_TIMEOUT_MS, prepare, untilNotStuck } from './setting.mjs';

const PAIRS = 8;
const SETTLE_MS = 500;
const MIB = 2 ** 20;

function ownResidentMib() {
  globalThis.gc();
  return process.memoryUsage.rss() / MIB;
}

async function bootOurs(setting) {
  const before = ownResidentMib();
  const startedAt = performance.now();
  const machine = await setting.createOurs();
  try {
    await machine.start();
    await printed(machine, ALIVE, BOOT_TIMEOUT_MS);
    const ms = performance.now() - startedAt;
    const { emulatedInstructions } = machine.stats().vcpus[0];
    await sleep(SETTLE_MS);
    const mib = ownResidentMib();
    return { ms, mib: mib - before, processMib: mib, instructions: emulatedInstructions };
  } finally {
    await machine.close();
  }
}

async function bootTheirs(setting) {
  const startedAt = performance.now();
  const machine = setting.createTheirs();
  try {
    await machine.negotiate();
    await machine.printed(ALIVE, BOOT_TIMEOUT_MS);
    const ms = performance.now() - startedAt;
    const { insn_emulation: instructions } = await machine.counters();
    await sleep(SETTLE_MS);
    const mib = machine.residentMib();
    return { ms, mib, processMib: mib, instructions };
  } finally {
    await machine.close();
  }
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  const setting = await prepare();
  const theirBoot = () => untilNotStuck(() => bootTheirs(setting), note);
  note('booting a guest that does not count…');
  await bootOurs(setting);
  await theirBoot();
  const { ours, theirs } = await inTurns(PAIRS, {
    ours: () => bootOurs(setting),
    theirs: theirBoot,
    note,
  });
  const pick = (key) => ({
    ours: ours.map((run) => run[key]),
    theirs: theirs.map((run) => run[key]),
  });
  const counts = pick('instructions');
  const counted = summarize(counts.ours).min > 0 && summarize(counts.theirs).min > 0;
  return {
    version: setting.version,
    metrics: [
      comparison('boot_vs_qemu', 'ms', pick('ms')),
      comparison('rss_vs_qemu', 'MiB', pick('mib')),
      comparison('process_rss_vs_qemu', 'MiB', pick('processMib')),
      // Hardware runs the guest's kernel without counting.
      counted
        ? comparison('boot_instructions_vs_qemu', 'instructions', counts)
        : {
            name: 'boot_instructions_vs_qemu',
            value: null,
            unit: 'times',
            reason: 'this host counts no guest instructions',
          },
    ],
  };
}
