// What the data paths of the devices cost: a vsock stream against a socketpair, without a guest; and
// how often a guest leaves KVM for each MiB that it moves, and what its kernel does for it and for a
// connection.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from '../../dist/index.js';
import { AGENT_PORT, bootToAgent } from '../lib/guest.mjs';
import { runNative } from '../lib/native-bench.mjs';
import { round } from '../lib/statistics.mjs';

const MIB = 2 ** 20;
const OUTPUT_MIB = 2;
const DISK_MIB = 4;
const UNIT = 'instructions';
const CONNECTIONS = 20;
/** Both ends have closed by then. */
const SETTLE_MS = 50;

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

/** Exits of the CPU, and guest instructions, for each MiB that `command` moves. */
async function perMib(sandbox, command, mib) {
  const run = () => sandbox.exec('sh', ['-c', command]);
  // The first time loads the program.
  await run();
  const before = (await sandbox.metrics()).cpu;
  await run();
  const after = (await sandbox.metrics()).cpu;
  const counted = after.emulatedInstructions !== null;
  return {
    exits: round((after.exits - before.exits) / mib),
    deviceExits: round((after.deviceExits - before.deviceExits) / mib),
    instructions: counted
      ? Math.round((after.emulatedInstructions - before.emulatedInstructions) / mib)
      : null,
  };
}

/** Writes `DISK_MIB` to a file and waits until it is where it stays. */
const writeTo = (path) =>
  `dd if=/dev/zero of=${path} bs=64k count=${DISK_MIB * 16} conv=fsync 2>/dev/null`;

async function guestPaths(note) {
  note('counting exits of a guest that writes to its stdout, its disk and a shared directory');
  const directory = mkdtempSync(join(tmpdir(), 'embervm-bench-'));
  const sandbox = await Sandbox.create({
    memoryMib: 128,
    bootTimeoutMs: 300_000,
    mounts: { '/shared': { bind: directory } },
  });
  const paths = {};
  try {
    const head = `head -c ${OUTPUT_MIB * MIB} /dev/zero`;
    paths.vsock = await perMib(sandbox, head, OUTPUT_MIB);
    paths.blk = await perMib(sandbox, writeTo('/root/bench'), DISK_MIB);
    paths.fs = await perMib(sandbox, writeTo('/shared/bench'), DISK_MIB);
  } finally {
    await sandbox.close();
    rmSync(directory, { recursive: true, force: true });
  }
  const metrics = (prefix, key, unit) =>
    Object.entries(paths).map(([path, cost]) => ({
      name: `${prefix}_per_mib_${path}`,
      value: cost[key],
      unit,
    }));
  return [
    ...metrics('exits', 'exits', ''),
    ...metrics('device_exits', 'deviceExits', ''),
    ...metrics('instructions', 'instructions', UNIT),
  ];
}

/** A connection of the host to a port of the guest's agent, which accepts it, until both have closed. */
async function connections(note) {
  note(`connecting ${CONNECTIONS} times…`);
  const name = 'instructions_per_connect';
  const { machine, stream } = await bootToAgent({ memoryMib: 128 });
  const connect = async () => {
    const connection = await machine.connectVsock(AGENT_PORT);
    const closed = new Promise((resolve) => connection.once('close', resolve));
    connection.destroy();
    await closed;
    await sleep(SETTLE_MS);
  };
  const count = () => machine.stats().vcpus[0].emulatedInstructions;
  try {
    // The first time loads the code, and what the boot left to do is no part of it.
    await connect();
    await sleep(1000);
    const before = count();
    for (let run = 0; run < CONNECTIONS; run++) await connect();
    const value = before < 0 ? null : Math.round((count() - before) / CONNECTIONS);
    return [{ name, value, unit: UNIT }];
  } finally {
    stream.destroy();
    await machine.close();
  }
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  return [...(await vsockStream(note)), ...(await guestPaths(note)), ...(await connections(note))];
}
