// npm run setup [-- --only <step>] [-- --needs-kvm]: builds everything that a boot takes, from a
// clean clone. It uses Node's built-in modules only, because it runs before `npm ci`. What is up to
// date is left alone, so that running it again costs a second.
import { parseArgs } from 'node:util';
import { Failure, main } from './lib/failure.mjs';
import { checkKvm, checkNode } from './lib/host.mjs';
import { Progress, seconds } from './lib/progress.mjs';
import { hashInputs, isStamped, stamp } from './lib/stamp.mjs';
import { steps } from './setup/steps.mjs';

const hashOf = (step) =>
  hashInputs(step.inputs, { skip: step.skip ?? [], facts: step.facts?.() ?? [] });

async function runStep(step, progress) {
  progress.start(step.title);
  const upToDate = () =>
    step.upToDate ? step.upToDate() : isStamped(step.name, hashOf(step), step.outputs);
  if (upToDate()) return progress.end('up to date');
  // Taken before the step runs: an edit made meanwhile must be seen by the next run.
  const hash = step.inputs === undefined ? undefined : hashOf(step);
  progress.working();
  try {
    await step.run((line) => progress.detail(line));
  } catch (error) {
    progress.end('failed');
    throw error;
  }
  if (hash !== undefined) stamp(step.name, hash);
  progress.end();
}

function choose(only) {
  if (only === undefined) return steps;
  const step = steps.find(({ name }) => name === only);
  if (step !== undefined) return [step];
  const names = steps.map(({ name }) => name).join(', ');
  throw new Failure(`There is no set-up step "${only}": choose one of ${names}.`);
}

await main(async () => {
  const { values } = parseArgs({
    options: { only: { type: 'string' }, 'needs-kvm': { type: 'boolean' } },
  });
  // Before minutes of building, not after.
  const problem = checkNode() ?? (values['needs-kvm'] ? checkKvm() : undefined);
  if (problem !== undefined) throw new Failure(problem);
  const chosen = choose(values.only);
  const startedAt = performance.now();
  const progress = new Progress(chosen.length);
  for (const step of chosen) await runStep(step, progress);
  console.error(`Set-up finished in ${seconds(performance.now() - startedAt)}.`);
});
