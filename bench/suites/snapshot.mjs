// What it costs to save a guest, and to go on from it: the monitor's own share of a restore, how
// long a guest stands still, what its agent needs until it has dialled in again, and what that makes
// of a create.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Sandbox } from '../../dist/index.js';
import { Machine } from '../../dist/machine/index.js';
import { AgentClient } from '../../dist/rpc/agent-client.js';
import { bootToAgent, dialIn } from '../lib/guest.mjs';
import { round, summarize } from '../lib/statistics.mjs';
import { tinyProgram } from '../lib/tiny-program.mjs';

const MEMORY_MIB = 512;
const RESTORES = 20;
const SNAPSHOTS = 5;
const CREATES = 3;
const CYCLES = 100;
// Until the heap of JavaScript has its size.
const WARM_UP_CYCLES = 25;
const DISK_BYTES = 1024 * 1024;
const FORKS = 10;
const SETTLE_MS = 2000;
const NS_PER_MS = 1e6;
const TINY = '/tmp/tiny';

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

/**
 * A sandbox, its first command, and what both took; the caller closes it. `tiny`: a static program that
 * only exits, whose way into the guest is not counted. `true`: that of the base image.
 */
async function createAndRun(options, program) {
  let startedAt = performance.now();
  const sandbox = await Sandbox.create({ memoryMib: MEMORY_MIB, ...options });
  let ms = performance.now() - startedAt;
  const count = async () =>
    (await sandbox.metrics({ guest: false, resident: false })).cpu.emulatedInstructions;
  const created = await count();
  if (program === TINY) await sandbox.files.write(TINY, tinyProgram(), { mode: 0o755 });
  const before = await count();
  startedAt = performance.now();
  const { success } = await sandbox.exec(program);
  ms += performance.now() - startedAt;
  if (!success) throw new Error(`"${program}" failed`);
  const instructions = created === null ? null : created + (await count()) - before;
  return { sandbox, ms, instructions };
}

/** What a process holds that it did not hold before; memory, when garbage is collected. */
function held(home) {
  globalThis.gc();
  const count = (directory) => readdirSync(directory).length;
  return {
    descriptors: count('/proc/self/fd'),
    threads: count('/proc/self/task'),
    files: count(join(home, 'sandboxes')) + count(join(home, 'templates')),
    rssMib: process.memoryUsage.rss() / 2 ** 20,
  };
}

/** In a home of its own, where there is no template yet. */
async function timeCreates(home, note) {
  process.env.EMBERVM_HOME = home;
  note('creating sandboxes, cold and warm in turns…');
  // The first of its kind, which leaves the template.
  await (await createAndRun({}, 'true')).sandbox.close();
  const made = { [TINY]: { cold: [], warm: [] }, true: { cold: [], warm: [] } };
  for (let run = 0; run < CREATES; run++) {
    for (const program of [TINY, 'true']) {
      for (const start of ['cold', 'warm']) {
        const warmStart = start === 'cold' ? 'off' : 'auto';
        const { sandbox, ...result } = await createAndRun({ warmStart }, program);
        const was = sandbox.bootReport().start;
        if (was !== start) throw new Error(`a ${start} start was ${was}`);
        made[program][start].push(result);
        await sandbox.kill();
      }
    }
  }
  note(`${CYCLES} cycles of create and close…`);
  const cycle = async () => (await Sandbox.create({ memoryMib: MEMORY_MIB })).close();
  for (let run = 0; run < WARM_UP_CYCLES; run++) await cycle();
  const before = held(home);
  for (let run = 0; run < CYCLES; run++) await cycle();
  const after = held(home);
  return [
    ...createMetrics('exec', made[TINY]),
    instructionMetric('create_warm_guest_instructions', made[TINY].warm),
    ...createMetrics('true', made.true),
    ...Object.keys(before).map((what) => ({
      name: `template_cycles_${what}_growth`,
      value: round(after[what] - before[what]),
      unit: what === 'rssMib' ? 'MiB' : what,
    })),
  ];
}

function createMetrics(what, { cold, warm }) {
  const coldMs = cold.map(({ ms }) => ms);
  const warmMs = warm.map(({ ms }) => ms);
  const ratio = round(summarize(coldMs).median / summarize(warmMs).median);
  return [
    metric(`create_cold_to_first_${what}_ms`, coldMs, 'ms'),
    { ...metric(`create_warm_to_first_${what}_ms`, warmMs, 'ms'), ratio },
  ];
}

/** What ten idle forks add to the memory of the process; pages that they share count once. */
async function measureForks(note) {
  note(`forking ${FORKS} sandboxes…`);
  const origin = await Sandbox.create({ memoryMib: MEMORY_MIB });
  const forks = [];
  try {
    await origin.exec('true');
    // What the first of all loads is nobody's share.
    await (await origin.fork()).close();
    globalThis.gc();
    const before = proportionalMib();
    const startedAt = performance.now();
    forks.push(...(await Promise.all(Array.from({ length: FORKS }, () => origin.fork()))));
    const ms = performance.now() - startedAt;
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    globalThis.gc();
    const added = (proportionalMib() - before) / FORKS;
    return [
      { name: 'fork_unique_mib', value: round(added), unit: 'MiB' },
      { name: 'fork_ms', value: round(ms / FORKS), unit: 'ms' },
    ];
  } finally {
    await Promise.all(forks.map((fork) => fork.close()));
    await origin.close();
  }
}

function proportionalMib() {
  const [, kib] = /^Pss: +([0-9]+) kB$/m.exec(readFileSync('/proc/self/smaps_rollup', 'utf8'));
  return Number(kib) / 1024;
}

/** `null` on hosts that do not count. */
function instructionMetric(name, results) {
  const counts = results.flatMap(({ instructions }) => instructions ?? []);
  if (counts.length === 0) return { name, value: null, unit: 'instructions' };
  return metric(name, counts, 'instructions');
}

/** Until the agent of a restored machine has the disk; null where the host does not count. */
async function countAttach({ machine, stream }, path) {
  writeFileSync(path, new Uint8Array(DISK_BYTES));
  const agent = new AgentClient(stream);
  // What the connection itself costs the first time is not meant.
  await agent.getInfo();
  const before = machine.stats().vcpus[0].emulatedInstructions;
  const device = await machine.attachDrive({ id: 'data', path });
  await agent.bindSlot(device.slot);
  const after = machine.stats().vcpus[0].emulatedInstructions;
  agent.close();
  return before < 0 ? null : after - before;
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  const directory = mkdtempSync(join(tmpdir(), 'embervm-bench-'));
  try {
    note(`booting a guest of ${MEMORY_MIB} MiB…`);
    const { machine } = await bootToAgent({ memoryMib: MEMORY_MIB, hotplugSlots: 1 });
    note(`taking ${SNAPSHOTS} full snapshots…`);
    const full = await timeSnapshots(machine, join(directory, 'full'), 'full');
    await machine.close();
    note(`restoring ${RESTORES} machines…`);
    const restores = await timeRestores(join(directory, 'full'));
    note(`taking ${SNAPSHOTS} diff snapshots of a restored one…`);
    const clone = await Machine.restore(join(directory, 'full'));
    const dialled = dialIn(clone);
    await clone.resume();
    const ready = await dialled;
    const diff = await timeSnapshots(clone, join(directory, 'diff'), 'diff');
    const attach = await countAttach(ready, join(directory, 'disk'));
    await clone.close();
    return [
      metric('restore_vmm_ms', restores.vmm, 'ms'),
      metric('restore_to_agent_ms', restores.dial, 'ms'),
      {
        name: 'guest_instructions_to_redial',
        value: restores.instructions,
        unit: 'instructions',
      },
      { name: 'attach_drive_guest_instructions', value: attach, unit: 'instructions' },
      metric('snapshot_ms', full.total, 'ms'),
      metric('snapshot_full_pause_ms', full.pause, 'ms'),
      metric('snapshot_pause_ms', diff.pause, 'ms'),
      ...(await timeCreates(join(directory, 'home'), note)),
      ...(await measureForks(note)),
    ];
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
