// The runners behind `npm test`. Each runs its tests with their output shown and returns how many
// passed and failed; one that ends without saying so counts as one failure.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ccacheForCMake } from '../lib/ccache.mjs';
import { root } from '../lib/root.mjs';
import { runLogged } from '../lib/run.mjs';

const FUZZ_SECONDS = Number(process.env.EMBERVM_FUZZ_SECONDS ?? 10);

const symbolizer = '/usr/bin/llvm-symbolizer-19';

/** Runs a program with its output shown, and gives back that output and the exit code. */
function show(command, env = {}) {
  return new Promise((resolve) => {
    const child = spawn(command[0], command.slice(1), {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text;
      process.stdout.write(text);
    });
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
  return { passed, failed: failed + (unexplained ? 1 : 0) };
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
  const { code } = await show(command);
  console.log(`${name}: ${code === 0 ? 'no finding' : 'FAILED'} in ${FUZZ_SECONDS} s`);
  return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1 };
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
  const results = [await fuzzWith('agent', agent)];
  for (const name of programs) results.push(await fuzzTarget(join(folder, name)));
  const sum = (key) => results.reduce((total, result) => total + result[key], 0);
  return { passed: sum('passed'), failed: sum('failed') };
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
  if (!existsSync(report)) return { passed: 0, failed: 1 };
  const result = JSON.parse(readFileSync(report, 'utf8'));
  const unloaded = result.testResults.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((t) => t.status === 'failed'),
  ).length;
  const failed = result.numFailedTests + unloaded;
  return { passed: result.numPassedTests, failed: failed === 0 && code !== 0 ? 1 : failed };
}

/** @type {Record<string, () => Promise<{ passed: number, failed: number }>>} */
export const suites = {
  native: () => native('asan-ubsan', { ASAN_SYMBOLIZER_PATH: symbolizer }),
  threads: () => native('tsan', { TSAN_OPTIONS: `external_symbolizer_path=${symbolizer}` }),
  fuzz,
  agent: async () => count(await show([join(root, 'native/agent/test/run')]), PLAIN),
  vitest,
};
