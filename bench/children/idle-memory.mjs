// What one idle 128 MiB machine costs this process beyond the pages that the guest touched.
// Prints { importMib, overheadMib, guestMib }. Needs --expose-gc.
import { setTimeout as sleep } from 'node:timers/promises';

const MIB = 2 ** 20;
const SETTLE_MS = 2_000;

async function residentBytes() {
  // Twice: the first collection runs finalizers, which free what the second collects.
  for (let pass = 0; pass < 2; pass++) {
    globalThis.gc();
    await sleep(SETTLE_MS / 2);
  }
  return process.memoryUsage.rss();
}

const bare = await residentBytes();
const { Machine } = await import('../../dist/machine/index.js');
const { bootToAgent } = await import('../lib/guest.mjs');
// A refused configuration loads what every machine of the process shares.
await Machine.create({}).catch(() => {});
const before = await residentBytes();

const guest = await bootToAgent({ memoryMib: 128 });
const after = await residentBytes();
const guestBytes = await guest.machine.residentBytes();
await guest.machine.close();

console.log(
  JSON.stringify({
    importMib: (before - bare) / MIB,
    overheadMib: (after - before - guestBytes) / MIB,
    guestMib: guestBytes / MIB,
  }),
);
