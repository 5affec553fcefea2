import { readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const asset = (name: string): string =>
  fileURLToPath(new URL(`../../build/guest/${name}`, import.meta.url));

const ELF_PROGRAM_INTERPRETER = 3;

/** Types of the program headers of a 64-bit ELF file. */
function programHeaderTypes(file: Buffer): number[] {
  const offset = Number(file.readBigUInt64LE(32));
  const size = file.readUInt16LE(54);
  return Array.from({ length: file.readUInt16LE(56) }, (_, index) =>
    file.readUInt32LE(offset + index * size),
  );
}

describe('the guest agent', () => {
  it('has at most 150 KB', () => {
    expect(statSync(asset('agent')).size).toBeLessThanOrEqual(150_000);
  });

  it('is a static program: the image of a workload need not have a C library', () => {
    const file = readFileSync(asset('agent'));
    expect(file.subarray(0, 4).toString('latin1')).toBe('\x7fELF');
    expect(programHeaderTypes(file)).not.toContain(ELF_PROGRAM_INTERPRETER);
  });

  it('is in the initramfs, byte for byte', () => {
    const initramfs = readFileSync(asset('initramfs.cpio'));
    expect(initramfs.includes(readFileSync(asset('agent')))).toBe(true);
    expect(initramfs.includes(readFileSync(asset('containers')))).toBe(true);
  });
});
