// clang-tidy over every C++ source that ships and every fuzzer, with the commands that CMake
// recorded. A source that passed is remembered by the hash of itself, of all headers and of the
// options, so that only what changed is analysed again.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { extname, join, relative } from 'node:path';
import { pool } from './lib/pool.mjs';
import { root } from './lib/root.mjs';
import { listFiles } from './lib/stamp.mjs';

const buildFolder = join(root, 'build/cmake/addon');
const stamps = join(root, 'build/stamps/tidy');

function sharedHash() {
  const headers = listFiles(join(root, 'native')).filter((file) => extname(file) === '.h');
  const hash = createHash('sha256');
  for (const file of [...headers, join(root, '.clang-tidy')]) {
    hash.update(file).update(readFileSync(file));
  }
  return hash.digest();
}

function tidy(file) {
  return new Promise((resolve) => {
    const child = spawn('clang-tidy-19', ['--quiet', '-p', buildFolder, file], { cwd: root });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    // stderr carries only the count of warnings suppressed in system headers.
    child.stderr.resume();
    child.on('error', (error) => resolve(error.message));
    child.on('close', (code) => resolve(code === 0 ? undefined : output));
  });
}

async function check({ file, command }, shared) {
  const hash = createHash('sha256')
    .update(shared)
    .update(readFileSync(file))
    .update(command)
    .digest('hex');
  const name = join(stamps, relative(root, file).replaceAll('/', '_'));
  if (existsSync(name) && readFileSync(name, 'utf8') === hash) return undefined;
  const problem = await tidy(file);
  if (problem === undefined) writeFileSync(name, hash);
  return problem;
}

const database = JSON.parse(readFileSync(join(buildFolder, 'compile_commands.json'), 'utf8'));
const units = database.filter(
  ({ file }) => file.startsWith(`${root}/native/`) && !file.startsWith(`${root}/native/test/`),
);
mkdirSync(stamps, { recursive: true });
const shared = sharedHash();
const problems = (await pool(units, (unit) => check(unit, shared))).filter((p) => p !== undefined);
for (const problem of problems) console.error(problem);
if (problems.length > 0 || units.length === 0) process.exitCode = 1;
