// npm run bench -- <suite> [--json] [--save]: runs one suite against dist/ and prints its figures, as
// a table or as one JSON object. `--compare qemu` runs instead what the suite has to put side by side
// with QEMU; `boot --profile` shows where in the guest's kernel a boot is spent. `--save` keeps the
// result in bench/results, and `--render` makes docs/performance.md of what is there.
import { existsSync, readdirSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Failure, main } from '../scripts/lib/failure.mjs';
import { checkKvm } from '../scripts/lib/host.mjs';
import { printProfile, printTable } from './lib/table.mjs';
import { saveResult } from './render/results.mjs';

const url = (path) => new URL(path, import.meta.url);
const list = (folder) => readdirSync(url(folder)).map((name) => name.replace('.mjs', ''));
const hasComparison = (suite) => existsSync(url(`comparisons/${suite}.mjs`));

function checkArguments({ compare, profile }, suite) {
  const suites = list('suites');
  if (suite === undefined || !suites.includes(suite)) {
    throw new Failure(
      `usage: npm run bench -- <${suites.join(' | ')}> [--json] [--save] [--compare qemu | --profile]\n` +
        '       npm run bench -- --render',
    );
  }
  if (profile && suite !== 'boot') {
    throw new Failure('--profile is for boot: npm run bench -- boot --profile');
  }
  if (compare !== undefined && compare !== 'qemu') {
    throw new Failure(`--compare ${compare}: only qemu is known`);
  }
  if (compare !== undefined && !hasComparison(suite)) {
    const those = suites.filter(hasComparison).join(', ');
    throw new Failure(`--compare is for ${those}: "${suite}" has nothing to put beside QEMU`);
  }
}

await main(async () => {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      compare: { type: 'string' },
      json: { type: 'boolean', default: false },
      profile: { type: 'boolean', default: false },
      render: { type: 'boolean', default: false },
      save: { type: 'boolean', default: false },
    },
  });
  if (values.render) {
    const { writeAll } = await import('./render/render.mjs');
    writeAll();
    return;
  }
  const [suite] = positionals;
  checkArguments(values, suite);
  const problem = checkKvm();
  if (problem !== undefined) throw new Failure(problem);

  if (values.profile) {
    const { profileBoot } = await import('./lib/profile.mjs');
    printProfile(await profileBoot({ memoryMib: 128 }));
    return;
  }
  const { compare } = values;
  const folder = compare === undefined ? 'suites' : 'comparisons';
  const { measure } = await import(`./${folder}/${suite}.mjs`);
  const { describeHost } = await import('./lib/host.mjs');
  const note = (text) => console.error(`  ${text}`);
  const measured = await measure(note);
  // A suite has metrics alone; a comparison says with which version of the other.
  const parts = Array.isArray(measured) ? { metrics: measured } : measured;
  const result = {
    suite,
    ...(compare === undefined ? {} : { compare }),
    host: describeHost(),
    ...parts,
  };
  if (values.save) saveResult(result);
  if (values.json) console.log(JSON.stringify(result));
  else printTable(result);
});
