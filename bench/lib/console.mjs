// What a guest of embervm says on its console.
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_MS = 1;
const TAIL_BYTES = 256;

/** Until the guest has printed `text`; rejects when it ends before. */
export async function printed(machine, text, timeoutMs) {
  const end = performance.now() + timeoutMs;
  while (!machine.consoleTail(TAIL_BYTES).includes(text)) {
    if (machine.exit !== undefined) {
      throw new Error(`the guest ended before it printed "${text}": ${machine.exit.message}`);
    }
    if (performance.now() > end) throw new Error(`no "${text}" after ${timeoutMs} ms`);
    await sleep(POLL_MS);
  }
}
