// What the life of a sandbox of virtcontainers costs the host, without a VM.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createSandbox } from '../../dist/virtcontainers/index.js';
import { round, summarize } from '../lib/statistics.mjs';

const WARM_UP = 5;
const RUNS = 40;

async function live() {
  const began = performance.now();
  const sandbox = await createSandbox({ hypervisorType: 'mock', containers: [{ id: 'c' }] });
  await sandbox.start();
  await sandbox.stop();
  await sandbox.delete();
  return performance.now() - began;
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  note(`creating, starting, stopping and deleting ${RUNS} sandboxes…`);
  const inherited = process.env.EMBERVM_HOME;
  const home = await mkdtemp(join(tmpdir(), 'embervm-bench-'));
  process.env.EMBERVM_HOME = home;
  try {
    const times = [];
    for (let run = 0; run < WARM_UP + RUNS; run += 1) times.push(await live());
    const { median, min, max } = summarize(times.slice(WARM_UP));
    const values = { value: round(median), unit: 'ms', min: round(min), max: round(max) };
    return [{ name: 'lifecycle_host_ms', ...values }];
  } finally {
    if (inherited === undefined) delete process.env.EMBERVM_HOME;
    else process.env.EMBERVM_HOME = inherited;
    await rm(home, { recursive: true, force: true });
  }
}
