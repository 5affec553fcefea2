// Builds and runs a benchmark of native/bench: what of the VMM can be measured without a guest.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { ccacheForCMake } from '../../scripts/lib/ccache.mjs';
import { root } from '../../scripts/lib/root.mjs';
import { runLogged } from '../../scripts/lib/run.mjs';

/** What native/bench/<name>_bench.cc prints, which is JSON. */
export async function runNative(name, note) {
  note(`building native/bench/${name}_bench.cc`);
  const env = ccacheForCMake();
  const log = 'cmake-bench';
  await runLogged(log, ['cmake', '--preset', 'dev', '-DEMBERVM_BENCH=ON', '-DEMBERVM_WERROR=OFF'], {
    env,
  });
  const build = ['cmake', '--build', '--preset', 'dev', '--target', `${name}_bench`];
  await runLogged(log, build, { env, append: true });
  note('measuring in turns');
  return JSON.parse(
    execFileSync(join(root, `build/cmake/dev/${name}_bench`), { encoding: 'utf8' }),
  );
}
