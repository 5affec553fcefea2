// The longest stall of the event loop during 4 creates and 20 execs, the loading of the modules
// included. Prints { stallMs, blockedMs }.
import { Sandbox } from '../../dist/index.js';
import { StallProbe } from '../lib/stall-probe.mjs';

const CREATES = 4;
const EXECS_EACH = 5;

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
console.log(JSON.stringify(probe.stop()));
