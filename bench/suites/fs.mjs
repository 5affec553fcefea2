// What a shared directory costs: 4 KiB reads as FUSE requests through a virtqueue in memory, against
// pread(2) of the same file. A native program, built here; it needs no guest.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { ccacheForCMake } from '../../scripts/lib/ccache.mjs';
import { root } from '../../scripts/lib/root.mjs';
import { runLogged } from '../../scripts/lib/run.mjs';

export async function measure(note) {
  note('building the native benchmark');
  const env = ccacheForCMake();
  const log = 'cmake-bench';
  await runLogged(log, ['cmake', '--preset', 'dev', '-DEMBERVM_BENCH=ON', '-DEMBERVM_WERROR=OFF'], {
    env,
  });
  const build = ['cmake', '--build', '--preset', 'dev', '--target', 'fs_bench'];
  await runLogged(log, build, { env, append: true });
  note('reading in turns');
  const output = execFileSync(join(root, 'build/cmake/dev/fs_bench'), { encoding: 'utf8' });
  const { ratio, min, max, fs_reads_per_second, pread_per_second } = JSON.parse(output);
  return [
    { name: 'fs_ops', value: ratio, unit: 'of pread', min, max },
    { name: 'fs_reads_per_second', value: fs_reads_per_second, unit: '/s' },
    { name: 'pread_per_second', value: pread_per_second, unit: '/s' },
  ];
}
