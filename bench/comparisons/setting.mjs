// The one guest of all comparisons, in embervm and in QEMU: kernel, initramfs, memory and words of
// the command line are the same.
import { probeHost } from '../../dist/index.js';
import { Machine } from '../../dist/machine/index.js';
import { buildInitramfs, commonWords, hostWords, MEMORY_MIB, outputPath } from '../guest/build.mjs';
import { asset } from '../lib/guest.mjs';
import { readSymbols } from '../lib/kernel-symbols.mjs';
import { findQemu } from '../qemu/find.mjs';
import { makeKernelWithoutFixups } from '../qemu/kernel.mjs';
import { GuestStuck, QemuMachine } from '../qemu/machine.mjs';

/** No guest takes so long to its first line. */
export const BOOT_TIMEOUT_MS = 120_000;
export const ALIVE = 'alive';

const ATTEMPTS = 4;

/**
 * Does with QEMU what starts with a boot, and again from the start where its guest got stuck, as few
 * do. A run that got stuck measures nothing.
 */
export async function untilNotStuck(run, note) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof GuestStuck) || attempt === ATTEMPTS) throw error;
      note('a guest of QEMU came upon an instruction that this host does not emulate: once more…');
    }
  }
}

/** Builds what both boot, and looks for QEMU before that. */
export async function prepare() {
  const { program, version } = findQemu();
  const { kvm } = probeHost();
  const initrd = await buildInitramfs();
  let kernel = asset('vmlinux');
  if (kvm === 'pvm') {
    const copy = outputPath('vmlinux');
    makeKernelWithoutFixups(kernel, copy, readSymbols());
    kernel = copy;
  }
  const common = commonWords(kvm);
  return {
    version,
    createOurs: ({ words = [], drives = [] } = {}) =>
      Machine.create({
        kernel: { path: kernel, initrd, args: [...common, ...words] },
        vcpus: 1,
        memoryMib: MEMORY_MIB,
        rng: false,
        drives,
      }),
    createTheirs: ({ words = [], ...options } = {}) =>
      new QemuMachine(program, {
        ...options,
        kvm,
        kernel,
        initrd,
        words: [...common, ...hostWords(kvm), ...words],
        memoryMib: MEMORY_MIB,
      }),
  };
}
