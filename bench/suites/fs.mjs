// What a shared directory costs: 4 KiB reads as FUSE requests through a virtqueue in memory, against
// pread(2) of the same file. A native program, built here; it needs no guest.
import { runNative } from '../lib/native-bench.mjs';

export async function measure(note) {
  const { ratio, min, max, fs_reads_per_second, pread_per_second } = await runNative('fs', note);
  return [
    { name: 'fs_ops', value: ratio, unit: 'of pread', min, max },
    { name: 'fs_reads_per_second', value: fs_reads_per_second, unit: '/s' },
    { name: 'pread_per_second', value: pread_per_second, unit: '/s' },
  ];
}
