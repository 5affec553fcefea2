// npm test [-- <suite>…]: sets up what is missing, runs every suite, names what failed, and ends
// with one line, "N passed, N failed", over all of them.
import { Failure, main } from './lib/failure.mjs';
import { seconds } from './lib/progress.mjs';
import { setUp } from './lib/set-up.mjs';
import { listFailures } from './test/failures.mjs';
import { suites } from './test/suites.mjs';

function choose(names) {
  const unknown = names.find((name) => !(name in suites));
  if (unknown !== undefined) {
    throw new Failure(
      `There is no test suite "${unknown}": choose among ${Object.keys(suites).join(', ')}.`,
    );
  }
  return names.length === 0 ? Object.keys(suites) : names;
}

async function runSuite(name) {
  console.log(`\n── ${name}`);
  const startedAt = performance.now();
  let result;
  try {
    result = await suites[name]();
  } catch (error) {
    console.error(error instanceof Failure ? error.message : error);
    result = { passed: 0, failed: 1, failures: [String(error?.message ?? error)] };
  }
  return { name, ...result, time: seconds(performance.now() - startedAt) };
}

await main(async () => {
  const chosen = choose(process.argv.slice(2));
  setUp('--needs-kvm');

  const results = [];
  for (const name of chosen) results.push(await runSuite(name));
  console.log('');
  for (const { name, passed, failed, time } of results) {
    console.log(`${name.padEnd(8)} ${passed} passed, ${failed} failed  (${time})`);
  }
  const failures = listFailures(results);
  if (failures.length > 0) console.log(`\nFailed:\n${failures.join('\n')}`);
  const sum = (key) => results.reduce((total, result) => total + result[key], 0);
  console.log(`\n${sum('passed')} passed, ${sum('failed')} failed`);
  if (sum('failed') > 0) process.exitCode = 1;
});
