// The longest stall of the event loop during 4 creates and 20 execs, the loading of the modules
// included. Prints { stallMs, busyMs }; with "observed" as argument also idleStallMs, that of a process
// which does nothing but watch its own loop at the same time. It wakes a thousand times a second, and
// on two cores it is in the way of the one that is measured.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Sandbox } from '../../dist/index.js';
import { StallProbe } from '../lib/stall-probe.mjs';

const CREATES = 4;
const EXECS_EACH = 5;

async function startIdleProcess() {
  const idle = spawn(process.execPath, [new URL('idle-loop.mjs', import.meta.url).pathname], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(idle.stdout, 'data');
  return async () => {
    idle.stdin.end();
    const [worst] = await once(idle.stdout, 'data');
    return { idleStallMs: JSON.parse(worst).stallMs };
  };
}

const observed = process.argv[2] === 'observed' ? await startIdleProcess() : async () => ({});
const probe = new StallProbe();
probe.start();
for (let create = 0; create < CREATES; create++) {
  const sandbox = await Sandbox.create({ memoryMib: 128, bootTimeoutMs: 300_000 });
  for (let exec = 0; exec < EXECS_EACH; exec++) {
    const { stdout } = await sandbox.exec('echo', [String(exec)]);
    if (stdout !== `${exec}\n`) throw new Error(`the guest echoed "${stdout}"`);
  }
  await sandbox.close();
}
const measured = probe.stop();
console.log(JSON.stringify({ ...measured, ...(await observed()) }));
