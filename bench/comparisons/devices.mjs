// How often KVM stops a guest for each MiB between it and a disk, whoever then goes on with it: 64
// blocks of 64 KiB written, flushed and read again, past its page cache.
import { truncateSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { MOVED_MIB, outputPath } from '../guest/build.mjs';
import { printed } from '../lib/console.mjs';
import { round } from '../lib/statistics.mjs';
import { BOOT_TIMEOUT_MS, prepare, untilNotStuck } from './setting.mjs';

const WORDS = ['bench=blk'];
const DISK_BYTES = 16 * 2 ** 20;
/** The line itself is on its way; the guest then waits in user space, for longer. */
const SETTLE_MS = 100;

const NO_VSOCK = "QEMU's vsock needs vhost-vsock of the host's kernel";

function makeDisk(name) {
  const path = outputPath(name);
  writeFileSync(path, '');
  truncateSync(path, DISK_BYTES);
  return path;
}

/** What the counters of a guest grew by while it moved its blocks. */
async function during(says, read) {
  await says('ready');
  await sleep(SETTLE_MS);
  const before = await read();
  await says('moved');
  await sleep(SETTLE_MS);
  const after = await read();
  const perMib = (key) => round((after[key] - before[key]) / MOVED_MIB);
  return { exits: perMib('exits'), instructions: perMib('instructions') };
}

async function countOurs(setting) {
  const machine = await setting.createOurs({
    words: WORDS,
    drives: [{ path: makeDisk('ours.img') }],
  });
  try {
    await machine.start();
    return await during(
      (text) => printed(machine, text, BOOT_TIMEOUT_MS),
      () => {
        const { exits, emulatedInstructions } = machine.stats().vcpus[0];
        return { exits, instructions: emulatedInstructions };
      },
    );
  } finally {
    await machine.close();
  }
}

async function countTheirs(setting) {
  const machine = setting.createTheirs({ words: WORDS, drive: makeDisk('theirs.img') });
  try {
    await machine.negotiate();
    return await during(
      (text) => machine.printed(text, BOOT_TIMEOUT_MS),
      async () => {
        const { exits, insn_emulation } = await machine.counters();
        return { exits, instructions: insn_emulation };
      },
    );
  } finally {
    await machine.close();
  }
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  const setting = await prepare();
  note('a guest of embervm and its disk…');
  const ours = await countOurs(setting);
  note('a guest of QEMU and its disk…');
  const theirs = await untilNotStuck(() => countTheirs(setting), note);
  const counted = ours.instructions >= 0 && theirs.instructions > 0;
  return {
    version: setting.version,
    metrics: [
      { name: 'exits_per_mib_blk', value: ours.exits, unit: '', theirs: theirs.exits },
      {
        name: 'instructions_per_mib_blk',
        value: counted ? ours.instructions : null,
        unit: 'instructions',
        theirs: counted ? theirs.instructions : null,
      },
      { name: 'exits_per_mib_vsock_qemu', value: null, unit: '', reason: NO_VSOCK },
    ],
  };
}
