// What a process pays for many machines, for busy ones, and for the import alone.
import { execFileSync } from 'node:child_process';
import { measureInChild } from '../lib/child.mjs';
import { round, summarize } from '../lib/statistics.mjs';

const IMPORTS = 31;
const entry = new URL('../../dist/index.js', import.meta.url).href;

/** In turns: the process of both is the same, but for the import. */
function importTime() {
  const time = (args) => {
    const startedAt = performance.now();
    execFileSync(process.execPath, args);
    return performance.now() - startedAt;
  };
  const extra = [];
  for (let run = 0; run < IMPORTS; run++) {
    const bare = time(['-e', '0']);
    extra.push(time(['--input-type=module', '-e', `import ${JSON.stringify(entry)}`]) - bare);
  }
  const { median, min, max } = summarize(extra);
  return { name: 'import_ms', value: round(median), unit: 'ms', min: round(min), max: round(max) };
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  note('importing in turns…');
  const imported = importTime();
  note('watching the event loop beside 8 busy machines…');
  const busy = await measureInChild('busy-loop');
  note('creating 100 idle machines…');
  const idle = await measureInChild('density', ['--expose-gc']);
  if (idle.answered !== idle.machines) {
    throw new Error(`${idle.machines - idle.answered} of ${idle.machines} machines do not answer`);
  }
  return [
    imported,
    { name: 'event_loop_p99_ms', value: round(busy.p99Ms), unit: 'ms', max: round(busy.maxMs) },
    { name: 'event_loop_p50_ms', value: round(busy.p50Ms), unit: 'ms' },
    { name: 'machines_in_one_process', value: idle.answered, unit: '' },
    // Pages of the template that all of them map are resident once.
    { name: 'idle_machine_rss_mib', value: round(idle.pssMib), unit: 'MiB' },
    { name: 'idle_machine_mapped_mib', value: round(idle.rssMib), unit: 'MiB' },
    { name: 'idle_machine_cpu_percent', value: round(idle.cpuPercent, 3), unit: '%' },
    { name: 'idle_machine_threads', value: idle.threads, unit: '' },
    { name: 'idle_machine_descriptors', value: idle.descriptors, unit: '' },
  ];
}
