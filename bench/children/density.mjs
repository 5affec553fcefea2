// Many idle machines in one process: what each costs, and whether each still answers. Prints
// { rssMib, pssMib, threads, descriptors, cpuPercent, answered, machines }. Needs --expose-gc.
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from '../../dist/index.js';

const MACHINES = Number(process.argv[2] ?? 100);
const AT_ONCE = 2;
const KIB = 1024;
// A guest's kernel takes random numbers from the host ever more seldom in its first two minutes, then
// once a minute: as long as what is watched is.
const SETTLE_MS = 120_000;
const IDLE_MS = 60_000;
const OPTIONS = { memoryMib: 128, bootTimeoutMs: 300_000, quietLogs: true };

const kib = (text, name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)[1]);

async function usage(settleMs) {
  for (let pass = 0; pass < 2; pass++) {
    globalThis.gc();
    await sleep(settleMs / 2);
  }
  const rollup = readFileSync('/proc/self/smaps_rollup', 'latin1');
  return {
    rss: kib(rollup, 'Rss') / KIB,
    pss: kib(rollup, 'Pss') / KIB,
    threads: readdirSync('/proc/self/task').length,
    descriptors: readdirSync('/proc/self/fd').length,
  };
}

const cpuMs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

/** Calls `task` with each item, few at a time. */
async function forEach(items, task) {
  const queue = [...items];
  const worker = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await task(item);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

// The first loads the code and, where there is none, makes the template.
const first = await Sandbox.create(OPTIONS);
await first.exec('true');
await first.close();
const before = await usage(3_000);

const sandboxes = [];
await forEach(
  Array.from({ length: MACHINES }, (_, index) => index + 1),
  async () => sandboxes.push(await Sandbox.create(OPTIONS)),
);
const after = await usage(SETTLE_MS);
const cpuBefore = cpuMs();
const startedAt = performance.now();
await sleep(IDLE_MS);
const cpu = (100 * (cpuMs() - cpuBefore)) / (performance.now() - startedAt);

let answered = 0;
await forEach(sandboxes, async (sandbox) => {
  const { stdout } = await sandbox.exec('echo', [sandbox.name]);
  if (stdout === `${sandbox.name}\n`) answered += 1;
});
await forEach(sandboxes, (sandbox) => sandbox.close());

const each = (name) => (after[name] - before[name]) / MACHINES;
console.log(
  JSON.stringify({
    machines: MACHINES,
    answered,
    rssMib: each('rss'),
    pssMib: each('pss'),
    threads: each('threads'),
    descriptors: each('descriptors'),
    cpuPercent: cpu / MACHINES,
  }),
);
