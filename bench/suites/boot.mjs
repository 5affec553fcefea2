// What a boot costs: guest instructions, the monitor's own share, memory, and the event loop.
import { measureInChild } from '../lib/child.mjs';
import { bootToAgent, createGuest } from '../lib/guest.mjs';
import { round, summarize } from '../lib/statistics.mjs';

const SETUP_RUNS = 10;
const LOOP_RUNS = 7;
const OBSERVED_RUNS = 3;
const NS_PER_MS = 1e6;

async function guestInstructions() {
  const guest = await bootToAgent({ memoryMib: 128 });
  await guest.machine.close();
  const name = 'guest_instructions_to_agent_ready';
  // Hardware runs the guest's kernel without counting.
  if (guest.instructions < 0) return { name, value: null, unit: 'instructions' };
  return { name, value: guest.instructions, unit: 'instructions' };
}

async function setupTime() {
  const times = [];
  for (let run = 0; run < SETUP_RUNS; run++) {
    const machine = await createGuest({ memoryMib: 128 });
    await machine.start();
    while (machine.stats().setupNs < 0) await new Promise((resolve) => setImmediate(resolve));
    times.push(machine.stats().setupNs / NS_PER_MS);
    await machine.close();
  }
  const { median, min, max } = summarize(times);
  return {
    name: 'vmm_setup_ms',
    value: round(median),
    unit: 'ms',
    min: round(min),
    max: round(max),
  };
}

/** Each run in a process of its own: the loading of the modules is part of what is measured. */
async function eventLoop(note) {
  const runs = [];
  for (let run = 1; run <= LOOP_RUNS; run++) {
    note(`watching the event loop during 4 creates and 20 execs, run ${run} of ${LOOP_RUNS}…`);
    runs.push(await measureInChild('event-loop'));
  }
  const observed = [];
  for (let run = 1; run <= OBSERVED_RUNS; run++) {
    note(`the same beside a process that does nothing, run ${run} of ${OBSERVED_RUNS}…`);
    observed.push(await measureInChild('event-loop', [], ['observed']));
  }
  const metric = (name, of, key) => {
    const { median, min, max } = summarize(of.map((run) => run[key]));
    return { name, value: round(median), unit: 'ms', min: round(min), max: round(max) };
  };
  return [
    metric('event_loop_stall_ms', runs, 'stallMs'),
    metric('event_loop_busy_ms', runs, 'busyMs'),
    // The share of the host.
    metric('idle_process_stall_ms', observed, 'idleStallMs'),
  ];
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  note('booting to count guest instructions…');
  const instructions = await guestInstructions();
  note(`creating ${SETUP_RUNS} machines…`);
  const setup = await setupTime();
  note('measuring memory with an idle machine, in a child process…');
  const memory = await measureInChild('idle-memory', ['--expose-gc']);
  const loop = await eventLoop(note);
  return [
    instructions,
    setup,
    { name: 'idle_overhead_mib', value: round(memory.overheadMib), unit: 'MiB' },
    ...loop,
    { name: 'import_mib', value: round(memory.importMib), unit: 'MiB' },
    { name: 'idle_guest_resident_mib', value: round(memory.guestMib), unit: 'MiB' },
  ];
}
