// The runners behind `npm test`. Each runs its tests with their output shown and returns how many
// passed and failed, and a line for each failure; one that ends without saying so counts as one.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ccacheForCMake } from '../lib/ccache.mjs';
import { pool } from '../lib/pool.mjs';
import { root } from '../lib/root.mjs';
import { runLogged } from '../lib/run.mjs';
import { doctestFailures, fuzzFailure, vitestFailures } from './failures.mjs';

const FUZZ_SECONDS = Number(process.env.EMBERVM_FUZZ_SECONDS ?? 10);

const symbolizer = '/usr/bin/llvm-symbolizer-19';

/** Runs a program with its output shown, and gives back that output and the exit code. */
function show(command, env = {}) {
  return new Promise((resolve) => {
    const child = spawn(command[0], command.slice(1), {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    for (const stream of ['stdout', 'stderr']) {
      child[stream].setEncoding('utf8').on('data', (text) => {
        output += text;
        process[stream].write(text);
      });
    }
    child.on('error', (error) => {
      console.error(`${command[0]}: ${error.message}`);
      resolve({ output, code: 127 });
    });
    child.on('close', (code) => resolve({ output, code: code ?? 1 }));
  });
}

/** Counts by the last match of a summary line; a bad exit that no count explains is a failure. */
function count({ output, code }, summary) {
  const match = [...output.matchAll(summary)].at(-1);
  const passed = Number(match?.groups.passed ?? 0);
  const failed = Number(match?.groups.failed ?? 0);
  const unexplained = match === undefined || (code !== 0 && failed === 0);
  const failures = doctestFailures(output);
  if (unexplained) failures.push(`ended with code ${code}, which no failed test explains`);
  return { passed, failed: failed + (unexplained ? 1 : 0), failures };
}

async function buildPreset(preset) {
  console.log(`Building the ${preset} preset…`);
  const log = `cmake-${preset}`;
  const env = ccacheForCMake();
  await runLogged(log, ['cmake', '--preset', preset], { env });
  await runLogged(log, ['cmake', '--build', '--preset', preset], { env, append: true });
  return join(root, 'build/cmake', preset);
}

const DOCTEST = /test cases:\s*\d+ \|\s*(?<passed>\d+) passed \|\s*(?<failed>\d+) failed/g;
const PLAIN = /^(?:\w+: )?(?<passed>\d+) passed, (?<failed>\d+) failed/gm;

async function native(preset, env) {
  const folder = await buildPreset(preset);
  return count(await show([join(folder, 'native_tests')], env), DOCTEST);
}

/** One libFuzzer target counts as one test. */
async function fuzzWith(name, command) {
  const { code, output } = await show(command);
  console.log(`${name}: ${code === 0 ? 'no finding' : 'FAILED'} in ${FUZZ_SECONDS} s`);
  if (code === 0) return { passed: 1, failed: 0, failures: [] };
  return { passed: 0, failed: 1, failures: [fuzzFailure(name, output)] };
}

/** From the committed corpus, into a scratch folder. */
function fuzzTarget(program) {
  const name = basename(program);
  const scratch = join(root, 'build/fuzz', name);
  mkdirSync(scratch, { recursive: true });
  const corpus = join(root, 'native/fuzz/corpus', name.replace(/_fuzz$/, ''));
  return fuzzWith(name, [
    program,
    `-max_total_time=${FUZZ_SECONDS}`,
    '-timeout=10',
    '-rss_limit_mb=2048',
    `-artifact_prefix=${join(root, 'build/fuzz', `${name}-`)}`,
    '-print_final_stats=0',
    '-verbosity=0',
    scratch,
    ...(existsSync(corpus) ? [corpus] : []),
  ]);
}

async function fuzz() {
  const folder = await buildPreset('asan-ubsan');
  const programs = readdirSync(folder).filter((name) => name.endsWith('_fuzz'));
  const agent = [join(root, 'native/agent/fuzz/run'), String(FUZZ_SECONDS)];
  // As many at once as there are CPUs: each has one thread, and its time is what it is given.
  const targets = [
    () => fuzzWith('agent', agent),
    ...programs.map((name) => () => fuzzTarget(join(folder, name))),
  ];
  const results = await pool(targets, (run) => run());
  const sum = (key) => results.reduce((total, result) => total + result[key], 0);
  const failures = results.flatMap((result) => result.failures);
  return { passed: sum('passed'), failed: sum('failed'), failures };
}

/** vitest's own record; a file that did not load has no test in it and counts as one failure. */
async function vitest() {
  const report = join(root, 'build/test/vitest.json');
  rmSync(report, { force: true });
  const { code } = await show([
    process.execPath,
    join(root, 'node_modules/vitest/vitest.mjs'),
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
  ]);
  if (!existsSync(report)) {
    return { passed: 0, failed: 1, failures: [`ended with code ${code} and no record`] };
  }
  const result = JSON.parse(readFileSync(report, 'utf8'));
  const failures = vitestFailures(result);
  if (failures.length === 0 && code !== 0) {
    failures.push(`ended with code ${code}, which no failed test explains`);
  }
  return { passed: result.numPassedTests, failed: failures.length, failures };
}

/** @type {Record<string, () => Promise<{ passed: number, failed: number, failures: string[] }>>} */
export const suites = {
  native: () => native('asan-ubsan', { ASAN_SYMBOLIZER_PATH: symbolizer }),
  threads: () => native('tsan', { TSAN_OPTIONS: `external_symbolizer_path=${symbolizer}` }),
  fuzz,
  agent: async () => count(await show([join(root, 'native/agent/test/run')]), PLAIN),
  vitest,
};
