// The longest stall of the event loop during 4 creates and 20 execs. Prints { stallMs }.
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { Sandbox } from '../../dist/index.js';

const CREATES = 4;
const EXECS_EACH = 5;
const RESOLUTION_MS = 1;

const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
delay.enable();
for (let create = 0; create < CREATES; create++) {
  const sandbox = await Sandbox.create({ memoryMib: 128, bootTimeoutMs: 300_000 });
  for (let exec = 0; exec < EXECS_EACH; exec++) {
    const { stdout } = await sandbox.exec('echo', [String(exec)]);
    if (stdout !== `${exec}\n`) throw new Error(`the guest echoed "${stdout}"`);
  }
  await sandbox.close();
}
delay.disable();
// The histogram holds whole intervals of the timer, its period included.
console.log(JSON.stringify({ stallMs: delay.max / 1e6 - RESOLUTION_MS }));
