// npm run format: rewrites TypeScript, JavaScript and JSON with Biome, C and C++ with
// clang-format. `--check` changes nothing and fails when a file would change.
import { spawnSync } from 'node:child_process';
import { extname, join } from 'node:path';
import { root } from './lib/root.mjs';
import { listFiles } from './lib/stamp.mjs';

const check = process.argv.includes('--check');
const sources = listFiles(join(root, 'native')).filter((file) =>
  ['.h', '.cc', '.c'].includes(extname(file)),
);
const commands = [
  [
    join(root, 'node_modules/.bin/biome'),
    ...(check ? ['ci', '--error-on-warnings'] : ['check', '--write']),
    '--colors=off',
  ],
  ['clang-format-19', ...(check ? ['--dry-run', '-Werror'] : ['-i']), ...sources],
];
for (const [program, ...args] of commands) {
  const { status, error } = spawnSync(program, args, { cwd: root, stdio: 'inherit' });
  if (error !== undefined) console.error(`${program} did not start: run "npm run setup".`);
  if (status !== 0) process.exitCode = 1;
}
