/** Kernels of a few instructions, for what a real one does only after seconds. */
import { writeFile } from 'node:fs/promises';

const LOAD_ADDRESS = 0x10_0000;
const HEADER_BYTES = 64;
const SEGMENT_BYTES = 56;

export interface Segment {
  address: number;
  fileBytes: number;
  memoryBytes: number;
}

/** An ELF kernel for x86-64 with one segment. */
export function elfKernel(code: number[], change: Partial<Segment> = {}): Buffer {
  const segment: Segment = {
    address: LOAD_ADDRESS,
    fileBytes: code.length,
    memoryBytes: code.length,
    ...change,
  };
  const file = Buffer.alloc(HEADER_BYTES + SEGMENT_BYTES);
  // ELF, 64 bits, little-endian, version 1.
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  file.writeUInt16LE(2, 16); // ET_EXEC
  file.writeUInt16LE(62, 18); // EM_X86_64
  file.writeUInt32LE(1, 20);
  file.writeBigUInt64LE(BigInt(LOAD_ADDRESS), 24);
  file.writeBigUInt64LE(BigInt(HEADER_BYTES), 32);
  file.writeUInt16LE(HEADER_BYTES, 52);
  file.writeUInt16LE(SEGMENT_BYTES, 54);
  file.writeUInt16LE(1, 56);
  const at = HEADER_BYTES;
  file.writeUInt32LE(1, at); // PT_LOAD
  file.writeUInt32LE(5, at + 4); // readable, executable
  file.writeBigUInt64LE(BigInt(HEADER_BYTES + SEGMENT_BYTES), at + 8);
  file.writeBigUInt64LE(BigInt(segment.address), at + 16);
  file.writeBigUInt64LE(BigInt(segment.address), at + 24);
  file.writeBigUInt64LE(BigInt(segment.fileBytes), at + 32);
  file.writeBigUInt64LE(BigInt(segment.memoryBytes), at + 40);
  return Buffer.concat([file, Buffer.from(code)]);
}

const low = (value: number): number => value & 0xff;
const high = (value: number): number => (value >> 8) & 0xff;

/** `out dx, al` */
const outByte = (port: number, value: number): number[] => [
  ...[0x66, 0xba, low(port), high(port)],
  ...[0xb0, value],
  0xee,
];

/** `out dx, ax` */
const outWord = (port: number, value: number): number[] => [
  ...[0x66, 0xba, low(port), high(port)],
  ...[0x66, 0xb8, low(value), high(value)],
  ...[0x66, 0xef],
];

const print = (text: string): number[] =>
  [...Buffer.from(text)].flatMap((byte) => outByte(0x3f8, byte));

/** `hlt`, for ever. */
const halt = [0xf4, 0xeb, 0xfd];

/** What a tiny kernel can do, after it has printed `text` to the serial port. */
export const programs = {
  /** Waits for an interrupt that never comes. */
  idle: (text = ''): number[] => [...print(text), ...halt],
  /** Keeps its CPU busy. */
  spin: (text = ''): number[] => [...print(text), 0xeb, 0xfe],
  powerOff: (text = ''): number[] => [...print(text), ...outWord(0x604, 0x2000), ...halt],
  reset: (text = ''): number[] => [...print(text), ...outByte(0x64, 0xfe), ...halt],
  panic: (text = ''): number[] => [
    ...print(text),
    ...outByte(0x505, 1),
    ...outByte(0x64, 0xfe),
    ...halt,
  ],
  /** `ud2` without a handler. */
  tripleFault: (): number[] => [0x0f, 0x0b],
} as const;

/** Writes a kernel that runs `code`; returns its path. */
export async function writeKernel(path: string, code: number[]): Promise<string> {
  await writeFile(path, elfKernel(code));
  return path;
}
