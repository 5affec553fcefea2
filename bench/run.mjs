// npm run bench -- <suite> [--json]: runs one suite against dist/ and prints its figures, as a
// table or as one JSON object. `boot --profile` shows where in the guest's kernel a boot is spent.
import { readdirSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { probeHost } from '../dist/index.js';
import { Failure, main } from '../scripts/lib/failure.mjs';
import { checkKvm } from '../scripts/lib/host.mjs';
import { printProfile, printTable } from './lib/table.mjs';

function listSuites() {
  return readdirSync(new URL('suites', import.meta.url)).map((name) => name.replace('.mjs', ''));
}

await main(async () => {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'boolean', default: false },
      profile: { type: 'boolean', default: false },
    },
  });
  const [suite] = positionals;
  if (suite === undefined || !listSuites().includes(suite)) {
    throw new Failure(`usage: npm run bench -- <${listSuites().join(' | ')}> [--json | --profile]`);
  }
  const problem = checkKvm();
  if (problem !== undefined) throw new Failure(problem);

  if (values.profile) {
    if (suite !== 'boot')
      throw new Failure('--profile is for boot: npm run bench -- boot --profile');
    const { profileBoot } = await import('./lib/profile.mjs');
    printProfile(await profileBoot({ memoryMib: 128 }));
    return;
  }
  const { measure } = await import(`./suites/${suite}.mjs`);
  const note = (text) => console.error(`  ${text}`);
  const metrics = await measure(note);
  const result = { suite, host: { kvm: probeHost().kvm }, metrics };
  if (values.json) console.log(JSON.stringify(result));
  else printTable(result);
});
