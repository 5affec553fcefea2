// npm run check: everything that can be said about the sources without booting a guest. Quick
// checks run side by side, then the build with warnings as errors, then the analysis that needs
// its compile commands. Every check runs even when one fails.
import { join } from 'node:path';
import { ccacheForCMake } from './lib/ccache.mjs';
import { Failure, main } from './lib/failure.mjs';
import { pool } from './lib/pool.mjs';
import { seconds } from './lib/progress.mjs';
import { root } from './lib/root.mjs';
import { runLogged } from './lib/run.mjs';

const node = process.execPath;
const inModules = (path) => join(root, 'node_modules', path);
const script = (name, ...args) => [node, join(root, 'scripts', name), ...args];
const tsc = (project) => [node, inModules('typescript/bin/tsc'), '--noEmit', '-p', project];

const phases = [
  {
    format: { command: script('format.mjs', '--check'), cure: 'Run: npm run format' },
    layers: { command: script('check-layers.mjs') },
    lockfile: { command: script('check-lockfile.mjs') },
    protocol: { command: script('gen-proto.mjs', '--check'), cure: 'Run: npm run gen' },
    'types-lib': { command: tsc('tsconfig.json') },
    'types-test': { command: tsc('tsconfig.test.json') },
  },
  {
    // The addon, by g++ with warnings as errors. The tests do that with clang.
    'native-build': {
      command: [
        node,
        inModules('cmake-js/bin/cmake-js'),
        'build',
        '--out=build/cmake/addon',
        '--prefer-gnu',
        '--config=Debug',
        '--target=embervm',
      ],
      env: ccacheForCMake(),
    },
  },
  { 'clang-tidy': { command: script('check-tidy.mjs') } },
];

async function runCheck([name, { command, env, cure }]) {
  const startedAt = performance.now();
  try {
    await runLogged(`check-${name}`, command, { env, cure });
    console.log(`ok      ${name.padEnd(14)} ${seconds(performance.now() - startedAt)}`);
    return undefined;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    console.log(`FAILED  ${name.padEnd(14)} ${seconds(performance.now() - startedAt)}`);
    return error.message;
  }
}

await main(async () => {
  const results = [];
  for (const phase of phases) results.push(...(await pool(Object.entries(phase), runCheck)));
  const failures = results.filter((message) => message !== undefined);
  if (failures.length > 0) throw new Failure(failures.join('\n\n'));
});
