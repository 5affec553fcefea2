// clang-tidy over every C++ source that ships, with the commands that CMake recorded. What passed is
// remembered in the user's cache by the hash of the source, of what it includes and of the options, so
// that only what changed is analysed again, also in a new clone.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, relative } from 'node:path';
import { pool } from './lib/pool.mjs';
import { root } from './lib/root.mjs';
import { hashInputs } from './lib/stamp.mjs';

const TOOL = 'clang-tidy-19';
const buildFolder = join(root, 'build/cmake/addon');
const passed = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'embervm/tidy');

const native = join(root, 'native');

/** What a file includes of ours, and those in turn; includes are written from native/. */
function closureOf(file, seen = new Set()) {
  if (seen.has(file) || !existsSync(file)) return seen;
  seen.add(file);
  for (const [, header] of readFileSync(file, 'utf8').matchAll(/^#include "(.+)"$/gm)) {
    closureOf(join(native, header), seen);
  }
  return seen;
}

function tidy(file) {
  return new Promise((resolve) => {
    const child = spawn(TOOL, ['--quiet', '-p', buildFolder, file], { cwd: root });
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    // stderr counts the warnings suppressed in system headers, and says why it did not run.
    let errors = '';
    child.stderr.on('data', (chunk) => {
      errors += chunk;
    });
    child.on('error', (error) => resolve(error.message));
    child.on('close', (code) => resolve(code === 0 ? undefined : output || errors));
  });
}

async function check({ file, command }, shared) {
  const sources = [...closureOf(file)].map((path) => relative(root, path)).sort();
  const facts = [...shared, command.replaceAll(root, '')];
  const hash = hashInputs([...sources, '.clang-tidy'], { facts });
  const mark = join(passed, hash);
  if (existsSync(mark)) return undefined;
  const problem = await tidy(file);
  if (problem === undefined) writeFileSync(mark, '');
  return problem;
}

const database = JSON.parse(readFileSync(join(buildFolder, 'compile_commands.json'), 'utf8'));
const units = database.filter(
  ({ file }) => file.startsWith(`${root}/native/`) && !file.startsWith(`${root}/native/test/`),
);
mkdirSync(passed, { recursive: true });
const shared = [spawnSync(TOOL, ['--version'], { encoding: 'utf8' }).stdout];
const problems = (await pool(units, (unit) => check(unit, shared))).filter((p) => p !== undefined);
for (const problem of problems) console.error(problem);
if (problems.length > 0 || units.length === 0) process.exitCode = 1;
