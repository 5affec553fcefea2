// Our guest kernel for a monitor without emulation fix-ups. On KVM-PVM two instructions that are not
// emulated stand in the way of QEMU: the breakpoint that the kernel tries out at boot, and the wait
// for a coprocessor when a process ends. In this copy the one test returns at once and the other
// instruction does nothing, and embervm boots the very same copy. A breakpoint that the kernel patches
// into its own code for a moment remains: an interrupt in that moment ends a guest of QEMU.
import { readFileSync, writeFileSync } from 'node:fs';
import { Failure } from '../../scripts/lib/failure.mjs';

const INT3 = 0xcc;
const RET = 0xc3;
const FWAIT = 0x9b;
const NOP = 0x90;
/** Longer than either function. */
const SEARCHED_BYTES = 64;

const PHDR_BYTES = 56;
const PHDR_OFFSET_OF_COUNT = 56;
const EHDR_BYTES = 64;
const PT_LOAD = 1;

/** Where the byte of an ELF image is that is loaded at a virtual address. */
function fileOffset(image, address) {
  const count = image.readUInt16LE(PHDR_OFFSET_OF_COUNT);
  for (let index = 0; index < count; index++) {
    const header = EHDR_BYTES + index * PHDR_BYTES;
    const begin = image.readBigUInt64LE(header + 16);
    const size = image.readBigUInt64LE(header + 32);
    if (image.readUInt32LE(header) === PT_LOAD && address >= begin && address < begin + size) {
      return Number(image.readBigUInt64LE(header + 8) + address - begin);
    }
  }
  throw new Failure(`the guest kernel loads nothing at ${address.toString(16)}`);
}

/** The place of `byte` in a function of the image. */
function find(image, symbols, name, byte) {
  const symbol = symbols.find((each) => each.name === name);
  const begin = symbol && fileOffset(image, symbol.address);
  const at = begin === undefined ? -1 : image.indexOf(byte, begin);
  if (at === -1 || at >= begin + SEARCHED_BYTES) {
    throw new Failure(
      `${name}() of the guest kernel is not what this bench knows: run "npm run setup" and try again`,
    );
  }
  return { begin, at };
}

/**
 * @param {string} vmlinux
 * @param {string} copy to write
 * @param {{ address: bigint, name: string }[]} symbols of the same build
 */
export function makeKernelWithoutFixups(vmlinux, copy, symbols) {
  const image = readFileSync(vmlinux);
  image[find(image, symbols, 'int3_selftest', INT3).begin] = RET;
  image[find(image, symbols, 'fpu__drop', FWAIT).at] = NOP;
  writeFileSync(copy, image);
}
