// Makes the guest that is booted in embervm and in QEMU alike: build/bench/guest.cpio of init.c.
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { guestCommandLine } from '../../dist/native/command-line.js';
import { root } from '../../scripts/lib/root.mjs';
import { runLogged } from '../../scripts/lib/run.mjs';

const output = join(root, 'build/bench');
const LOG = 'bench-guest';

export const MEMORY_MIB = 128;
/** What init.c moves: 64 blocks of 64 KiB there and back. */
export const MOVED_MIB = 8;

/** Where things are that belong to this bench and are made anew for each run of it. */
export function outputPath(name) {
  mkdirSync(output, { recursive: true });
  return join(output, name);
}

/** The initramfs. */
export async function buildInitramfs() {
  const init = outputPath('init');
  const initramfs = outputPath('guest.cpio');
  const source = join(root, 'bench/guest/init.c');
  const compile = ['musl-gcc', '-std=c17', '-Os', '-static', '-s', '-Wall', '-Wextra', source];
  await runLogged(LOG, [...compile, '-o', init]);
  const pack = join(root, 'guest/initramfs/pack.mjs');
  await runLogged(LOG, [process.execPath, pack, init, initramfs], { append: true });
  return initramfs;
}

/** The words that guest/kernel/cmdline has for hosts with KVM-PVM. */
function wordsOfPvm() {
  const text = readFileSync(join(root, 'guest/kernel/cmdline'), 'utf8');
  const [, section] = text.split('[kvm-pvm]\n');
  return section.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
}

/**
 * What both kernels are told. On KVM-PVM without XSAVE, which QEMU cannot do there: good enough for
 * one program that uses no such registers, and for nothing else.
 */
export const commonWords = (kvm) => [...guestCommandLine, ...(kvm === 'pvm' ? ['noxsave'] : [])];

/** What a monitor has to add that knows nothing of the kind of host; `embervm` does it by itself. */
export const hostWords = (kvm) => (kvm === 'pvm' ? wordsOfPvm() : []);
