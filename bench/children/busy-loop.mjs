// How late the event loop's timers come while machines write to their stdout and to their disks.
// Prints { p50Ms, p99Ms, maxMs }.
import { Sandbox } from '../../dist/index.js';

const MACHINES = 8;
const WATCH_MS = 20_000;
const PERIOD_MS = 1;
const BUSY = 'while :; do dd if=/dev/zero of=/root/f bs=64k count=1 2>/dev/null; cat /root/f; done';

const sandboxes = [];
for (let index = 0; index < MACHINES; index++) {
  sandboxes.push(await Sandbox.create({ memoryMib: 128, bootTimeoutMs: 300_000, quietLogs: true }));
}
/** Resolves when the first output is there; what follows ends with the sandbox. */
const keepBusy = (sandbox) =>
  new Promise((resolve, reject) => {
    const read = async () => {
      const { stdout } = sandbox.exec('sh', ['-c', BUSY], { encoding: 'buffer' });
      for await (const chunk of stdout) {
        bytes += chunk.length;
        resolve();
      }
    };
    read().catch(reject);
  });
let bytes = 0;
await Promise.all(sandboxes.map(keepBusy));
bytes = 0;

const late = [];
let last = performance.now();
const timer = setInterval(() => {
  const now = performance.now();
  late.push(Math.max(0, now - last - PERIOD_MS));
  last = performance.now();
}, PERIOD_MS);
await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
clearInterval(timer);

late.sort((a, b) => a - b);
const at = (part) => late[Math.min(late.length - 1, Math.floor(late.length * part))];
await Promise.all(sandboxes.map((sandbox) => sandbox.close()));
if (bytes === 0) throw new Error('the machines wrote nothing');
console.log(JSON.stringify({ p50Ms: at(0.5), p99Ms: at(0.99), maxMs: late.at(-1) }));
