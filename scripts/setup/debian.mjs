// The Debian packages that building takes: finds which are missing and installs only those. What is
// marked as optional is for whoever wants it to install.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { Failure } from '../lib/failure.mjs';
import { checkInstall } from '../lib/host.mjs';
import { runLogged } from '../lib/run.mjs';

const wanted = JSON.parse(
  readFileSync(new URL('../debian-packages.json', import.meta.url), 'utf8'),
);

export function listMissing() {
  const names = Object.keys(wanted).filter((name) => typeof wanted[name] === 'string');
  // Exits with 1 when it does not know one of the names; the others are printed all the same.
  const query = spawnSync(
    'dpkg-query',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query fills these in.
    ['--show', '--showformat=${binary:Package} ${db:Status-Status}\n', ...names],
    { encoding: 'utf8' },
  );
  const installed = new Set(
    (query.stdout ?? '')
      .split('\n')
      .filter((line) => line.endsWith(' installed'))
      .map((line) => line.split(' ')[0].replace(/:.*/, '')),
  );
  return names.filter((name) => !installed.has(name));
}

export async function install(missing, onLine) {
  const apt = spawnSync('apt-get', ['--version']).error === undefined;
  const problem = checkInstall(missing, { uid: process.getuid(), apt });
  if (problem !== undefined) throw new Failure(problem);
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  const command = ['apt-get', 'install', '--yes', '--no-install-recommends', ...missing];
  const known = spawnSync('apt-get', ['install', '--simulate', ...missing], {
    env: { ...process.env, ...env },
  });
  if (known.status !== 0) {
    await runLogged('packages', ['apt-get', 'update'], {
      env,
      onLine,
      cure: 'Check the network and /etc/apt/sources.list, and run the command again.',
    });
  }
  await runLogged('packages', command, {
    env,
    onLine,
    append: true,
    cure: `Run "apt-get update" and "apt-get install ${missing.join(' ')}" and mend what they report.`,
  });
}
