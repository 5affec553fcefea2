// Where a guest is while it boots: its CPU is stopped again and again, and what it was about to run
// is looked up among the kernel's symbols. KVM-PVM emulates the kernel's instructions, so time is
// spent where instructions are.
import { createGuest, dialIn } from './guest.mjs';
import { readSymbols } from './kernel-symbols.mjs';

const KERNEL_HALF = 1n << 63n;

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
