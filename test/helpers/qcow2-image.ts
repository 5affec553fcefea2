/** Makes qcow2 images (version 3, clusters of 64 KiB), as an author of another package would. */
import { readFileSync, writeFileSync } from 'node:fs';

const CLUSTER = 65_536;
const ENTRIES = CLUSTER / 8;
const COPIED = 1n << 63n;

/** The disk of a raw image, as a qcow2 image: what is all zeroes is not stored. */
export function qcow2From(rawPath: string, path: string): void {
  const raw = readFileSync(rawPath);
  const disk = Math.ceil(raw.length / CLUSTER);
  const tables = Math.ceil(disk / ENTRIES);
  // The header, the refcount table, one block of refcounts, L1, then the L2 tables.
  const parts = [0, 1, 2, 3].map(() => Buffer.alloc(CLUSTER));
  const [header, refcountTable, refcounts, l1] = parts as [Buffer, Buffer, Buffer, Buffer];
  const l2 = Array.from({ length: tables }, (_, index) => {
    l1.writeBigUInt64BE(BigInt((4 + index) * CLUSTER) | COPIED, index * 8);
    return Buffer.alloc(CLUSTER);
  });
  parts.push(...l2);
  for (let index = 0; index < disk; index++) {
    const data = raw.subarray(index * CLUSTER, (index + 1) * CLUSTER);
    if (data.every((byte) => byte === 0)) continue;
    const entry = BigInt(parts.length * CLUSTER) | COPIED;
    l2[Math.floor(index / ENTRIES)]?.writeBigUInt64BE(entry, (index % ENTRIES) * 8);
    parts.push(Buffer.concat([data], CLUSTER));
  }
  header.write('QFI\u00fb', 'latin1');
  header.writeUInt32BE(3, 4);
  header.writeUInt32BE(16, 20);
  header.writeBigUInt64BE(BigInt(raw.length), 24);
  header.writeUInt32BE(tables, 36);
  header.writeBigUInt64BE(BigInt(3 * CLUSTER), 40);
  header.writeBigUInt64BE(BigInt(CLUSTER), 48);
  header.writeUInt32BE(1, 56);
  header.writeUInt32BE(4, 96);
  header.writeUInt32BE(104, 100);
  refcountTable.writeBigUInt64BE(BigInt(2 * CLUSTER), 0);
  parts.forEach((_, index) => {
    refcounts.writeUInt16BE(1, index * 2);
  });
  writeFileSync(path, Buffer.concat(parts));
}
