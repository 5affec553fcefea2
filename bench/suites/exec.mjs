// What a command costs: guest instructions, the host's share of the time, its output against a
// plain pipe of the host, the memory that output takes, and many commands at once.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from '../../dist/index.js';
import { measureInChild } from '../lib/child.mjs';
import { round, summarize } from '../lib/statistics.mjs';
import { tinyProgram } from '../lib/tiny-program.mjs';

const WARM_UP = 3;
const RUNS = 40;
/** A guest that used no CPU for so long has done with the command before. */
const IDLE_MS = 10;
/** Counters alone: no question to the guest, no count of its pages. */
const COUNTERS = { guest: false, resident: false };
const OUTPUT_MIB = 2;
const OUTPUT_RUNS = 3;
const PARALLEL = 24;
const ROUNDS = 3;

async function untilIdle(sandbox) {
  for (let last; ; await sleep(IDLE_MS)) {
    const { timeMs } = (await sandbox.metrics(COUNTERS)).cpu;
    if (timeMs === last) return;
    last = timeMs;
  }
}

/** What KVM counts as halted ends when a CPU wakes: a pause wakes each, so this is up to date. */
async function countersOfNow(sandbox) {
  await sandbox.pause();
  await sandbox.resume();
  return (await sandbox.metrics(COUNTERS)).cpu;
}

const hostMs = ({ haltedMs, deviceMs }) => haltedMs + deviceMs;

/** CPU time of this process that is not the guest's. */
async function ownCpuMs(sandbox) {
  const { user, system } = process.cpuUsage();
  const { timeMs, deviceMs } = (await sandbox.metrics(COUNTERS)).cpu;
  return (user + system) / 1000 - (timeMs - deviceMs);
}

/**
 * Median guest instructions and host time of a command that has run before. Host time is all in
 * which the guest's CPU waits for us: halted, from the request on, or in one of our devices. The
 * guest is idle when it begins.
 */
async function costOf(sandbox, command) {
  for (let run = 0; run < WARM_UP; run++) await sandbox.exec(command);
  const instructions = [];
  const hostUs = [];
  const hostCpuUs = [];
  for (let run = 0; run < RUNS; run++) {
    await untilIdle(sandbox);
    const before = await countersOfNow(sandbox);
    const cpuBefore = await ownCpuMs(sandbox);
    const { exitCode } = await sandbox.exec(command);
    const cpuAfter = await ownCpuMs(sandbox);
    const after = await countersOfNow(sandbox);
    if (exitCode !== 0) throw new Error(`${command} ended with ${exitCode}`);
    instructions.push(after.emulatedInstructions - before.emulatedInstructions);
    hostUs.push((hostMs(after) - hostMs(before)) * 1000);
    hostCpuUs.push((cpuAfter - cpuBefore) * 1000);
  }
  const counted = (await sandbox.metrics(COUNTERS)).cpu.emulatedInstructions !== null;
  return {
    instructions: counted ? summarize(instructions) : undefined,
    hostUs: summarize(hostUs),
    hostCpuUs: summarize(hostCpuUs),
  };
}

const bytesOf = String(OUTPUT_MIB * 2 ** 20);

async function readAll(stream) {
  let bytes = 0;
  for await (const chunk of stream) bytes += chunk.length;
  if (bytes !== OUTPUT_MIB * 2 ** 20) throw new Error(`${bytes} bytes of output came`);
}

async function guestOutput(sandbox) {
  const begin = performance.now();
  const { cpu } = await sandbox.metrics(COUNTERS);
  const execution = sandbox.exec('head', ['-c', bytesOf, '/dev/zero']);
  await Promise.all([readAll(execution.stdout), execution.pid]);
  const seconds = (performance.now() - begin) / 1000;
  const after = (await sandbox.metrics(COUNTERS)).cpu;
  return {
    mibPerSecond: OUTPUT_MIB / seconds,
    instructionsPerMib: (after.emulatedInstructions - cpu.emulatedInstructions) / OUTPUT_MIB,
  };
}

async function hostOutput() {
  const begin = performance.now();
  const child = spawn('/bin/busybox', ['head', '-c', bytesOf, '/dev/zero'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await Promise.all([readAll(child.stdout), once(child, 'exit')]);
  return OUTPUT_MIB / ((performance.now() - begin) / 1000);
}

async function parallel(sandbox) {
  let worst = PARALLEL;
  for (let turn = 0; turn < ROUNDS; turn++) {
    const results = await Promise.all(
      Array.from({ length: PARALLEL }, (_, index) => sandbox.shell(`echo ${index}; exit ${index}`)),
    );
    const right = results.filter(
      ({ exitCode, stdout }, index) => exitCode === index && stdout === `${index}\n`,
    );
    worst = Math.min(worst, right.length);
  }
  return worst;
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  note('booting…');
  const sandbox = await Sandbox.create({ memoryMib: 256, bootTimeoutMs: 300_000 });
  try {
    const install = 'cat >/tmp/tiny && chmod 755 /tmp/tiny';
    await sandbox.shell(install, { stdin: tinyProgram() });
    // What the boot left to do is not part of a command.
    await sleep(2000);
    note(`running a program that only exits, ${RUNS} times…`);
    const tiny = await costOf(sandbox, '/tmp/tiny');
    note(`running /bin/true, ${RUNS} times…`);
    const plain = await costOf(sandbox, '/bin/true');
    note(`reading ${OUTPUT_MIB} MiB from the guest and from a program of the host, in turns…`);
    const guest = [];
    const host = [];
    for (let run = 0; run < OUTPUT_RUNS; run++) {
      guest.push(await guestOutput(sandbox));
      host.push(await hostOutput());
    }
    note(`running ${PARALLEL} commands at once, ${ROUNDS} times…`);
    const ok = await parallel(sandbox);
    note('reading slowly what a guest writes fast, in a child process…');
    const memory = await measureInChild('output-memory', ['--expose-gc']);

    const rate = summarize(guest.map(({ mibPerSecond }) => mibPerSecond)).median;
    const hostRate = summarize(host).median;
    const perMib = summarize(guest.map(({ instructionsPerMib }) => instructionsPerMib)).median;
    const count = (cost) => cost.instructions?.median ?? null;
    const [us, MIBS] = ['us', 'MiB/s'];
    return [
      { name: 'exec_tiny_guest_instructions', value: count(tiny), unit: 'instructions' },
      { name: 'exec_true_guest_instructions', value: count(plain), unit: 'instructions' },
      { name: 'exec_rtt_host_us', value: round(tiny.hostUs.median), unit: us },
      { name: 'exec_host_cpu_us', value: round(tiny.hostCpuUs.median), unit: us },
      { name: 'stdout_mib_s', value: round(rate, 3), unit: MIBS, ratio: round(rate / hostRate, 5) },
      { name: 'stdout_host_pipe_mib_s', value: round(hostRate), unit: MIBS },
      { name: 'stdout_guest_instructions_per_mib', value: round(perMib, 0), unit: 'instructions' },
      { name: 'output_memory_mib', value: round(memory.growthMib), unit: 'MiB' },
      { name: 'parallel_exec_24_ok', value: ok, unit: `of ${PARALLEL}` },
    ];
  } finally {
    await sandbox.close();
  }
}
