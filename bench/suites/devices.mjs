// What the data paths of the devices cost: a vsock stream against a socketpair, without a guest; and
// how often a guest leaves KVM for each MiB that it moves.
import { Sandbox } from '../../dist/index.js';
import { runNative } from '../lib/native-bench.mjs';
import { round } from '../lib/statistics.mjs';

const MIB = 2 ** 20;
const OUTPUT_MIB = 2;
const DISK_MIB = 4;

async function vsockStream(note) {
  const run = await runNative('vsock', note);
  return [
    {
      name: 'vsock_stream_gib_s',
      value: run.gib_per_second,
      unit: 'GiB/s',
      ratio: run.ratio,
      min: run.min,
      max: run.max,
    },
    { name: 'vsock_stream_to_host_gib_s', value: run.to_host, unit: 'GiB/s' },
    { name: 'vsock_stream_to_guest_gib_s', value: run.to_guest, unit: 'GiB/s' },
    { name: 'socketpair_gib_s', value: run.socketpair, unit: 'GiB/s' },
    { name: 'vsock_kicks_per_mib', value: run.kicks_per_mib, unit: '' },
    { name: 'vsock_interrupts_per_mib', value: run.interrupts_per_mib, unit: '' },
  ];
}

/** Exits to this process, and guest instructions, for each MiB that `command` moves. */
async function perMib(sandbox, command, mib) {
  const run = () => sandbox.exec('sh', ['-c', command], { maxOutputBytes: 2 * mib * MIB });
  // The first time loads the program.
  await run();
  const before = (await sandbox.metrics()).cpu;
  await run();
  const after = (await sandbox.metrics()).cpu;
  const counted = after.emulatedInstructions >= 0;
  return {
    exits: round((after.exits - before.exits) / mib),
    instructions: counted
      ? Math.round((after.emulatedInstructions - before.emulatedInstructions) / mib)
      : null,
  };
}

async function guestPaths(note) {
  note('counting exits of a guest that writes to its stdout and to its disk');
  await using sandbox = await Sandbox.create({ memoryMib: 128, bootTimeoutMs: 300_000 });
  const vsock = await perMib(sandbox, `head -c ${OUTPUT_MIB * MIB} /dev/zero`, OUTPUT_MIB);
  const write = `dd if=/dev/zero of=/root/bench bs=64k count=${DISK_MIB * 16} conv=fsync 2>/dev/null`;
  const blk = await perMib(sandbox, write, DISK_MIB);
  return [
    { name: 'exits_per_mib_vsock', value: vsock.exits, unit: '' },
    { name: 'exits_per_mib_blk', value: blk.exits, unit: '' },
    { name: 'instructions_per_mib_vsock', value: vsock.instructions, unit: 'instructions' },
    { name: 'instructions_per_mib_blk', value: blk.instructions, unit: 'instructions' },
  ];
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  return [...(await vsockStream(note)), ...(await guestPaths(note))];
}
