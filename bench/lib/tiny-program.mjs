// The smallest program there is: a static x86-64 ELF file that exits with 0 at once.
const BASE = 0x400000n;
const HEADERS = 64 + 56;
// mov eax, 60 (exit); xor edi, edi; syscall
const CODE = Buffer.from('b83c00000031ff0f05', 'hex');

export function tinyProgram() {
  const file = Buffer.alloc(HEADERS + CODE.length);
  file.write('\x7fELF', 0, 'latin1');
  // 64-bit, little-endian, version 1; then ET_EXEC, EM_X86_64, version 1.
  file.set([2, 1, 1], 4);
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(62, 18);
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BASE + BigInt(HEADERS), 24);
  file.writeBigUInt64LE(64n, 32);
  // Sizes of the header and of a program header, of which there is one.
  file.writeUInt16LE(64, 52);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  // PT_LOAD, readable and executable: the whole file at BASE.
  file.writeUInt32LE(1, 64);
  file.writeUInt32LE(5, 68);
  file.writeBigUInt64LE(BASE, 80);
  file.writeBigUInt64LE(BASE, 88);
  file.writeBigUInt64LE(BigInt(file.length), 96);
  file.writeBigUInt64LE(BigInt(file.length), 104);
  file.writeBigUInt64LE(4096n, 112);
  CODE.copy(file, HEADERS);
  return file;
}
