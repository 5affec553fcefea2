// Where a guest is while it boots: its CPU is stopped again and again, and what it was about to run
// is looked up among the kernel's symbols. KVM-PVM emulates the kernel's instructions, so time is
// spent where instructions are.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { root } from '../../scripts/lib/root.mjs';
import { createGuest, dialIn } from './guest.mjs';

const KERNEL_HALF = 1n << 63n;

/** Functions of the kernel that set-up built, by address. */
function readSymbols() {
  const hash = execFileSync(join(root, 'guest/kernel/build'), ['--print-hash'], {
    encoding: 'utf8',
  }).trim();
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  const map = readFileSync(join(cache, 'embervm/kernel', hash, 'System.map'), 'utf8');
  return map
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, kind]) => kind === 't' || kind === 'T')
    .map(([address, , name]) => ({ address: BigInt(`0x${address}`), name }));
}

/** The last symbol that does not lie behind the address. */
function nameOf(symbols, address) {
  if (address < KERNEL_HALF) return '(user space)';
  let low = 0;
  let high = symbols.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (symbols[middle].address <= address) low = middle + 1;
    else high = middle;
  }
  return low === 0 ? '(unknown)' : symbols[low - 1].name;
}

/** Samples a boot until its agent dials in. */
export async function profileBoot(options) {
  const symbols = readSymbols();
  const machine = await createGuest(options);
  let instructions = null;
  const counts = new Map();
  let samples = 0;
  try {
    dialIn(machine).then(
      (ready) => {
        instructions = ready.instructions;
      },
      () => {},
    );
    await machine.start();
    while (instructions === null && machine.exit === undefined) {
      await machine.pause();
      const [address] = await machine.instructionPointers();
      await machine.resume();
      const name = nameOf(symbols, address);
      counts.set(name, (counts.get(name) ?? 0) + 1);
      samples += 1;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  } finally {
    await machine.close();
  }
  const functions = [...counts]
    .map(([name, count]) => ({ name, share: count / samples }))
    .sort((a, b) => b.share - a.share);
  return { samples, instructions, functions };
}
