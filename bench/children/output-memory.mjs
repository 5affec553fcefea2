// How much memory of this process a guest's output takes, while a program writes 1 GiB as fast as
// it can and its reader takes 64 KiB every 100 ms. Prints { growthMib }. Needs --expose-gc.
import { setTimeout as sleep } from 'node:timers/promises';
import { Sandbox } from '../../dist/index.js';

const MIB = 2 ** 20;
const SECONDS = 20;

const sandbox = await Sandbox.create({ memoryMib: 128, bootTimeoutMs: 300_000 });
// Loads what reading takes, and the guest's pages of it.
await sandbox.exec('head', ['-c', String(256 * 1024), '/dev/zero']);
const execution = sandbox.exec('head', ['-c', String(1024 * MIB), '/dev/zero']);
await execution.pid;

/** Of the process, less the guest's own memory. */
async function ownBytes() {
  globalThis.gc();
  const { memory } = await sandbox.metrics({ guest: false });
  return process.memoryUsage.rss() - memory.residentBytes;
}

const before = await ownBytes();
let most = before;
const { stdout } = execution;
for (let tick = 0; tick < SECONDS * 10; tick++) {
  stdout.read(Math.min(stdout.readableLength, 64 * 1024));
  await sleep(100);
  if (tick % 10 === 9) most = Math.max(most, await ownBytes());
}
await execution.kill('SIGKILL');
stdout.destroy();
await sandbox.close();
console.log(JSON.stringify({ growthMib: (most - before) / MIB }));
