// npm run verify:package: packs what `npm run prebuild` made and checks it the way a user meets
// it: no install script, small enough, an addon for old enough systems, and the main job done in
// an empty project on a PATH without a compiler, with an empty home.
import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Failure, main } from './lib/failure.mjs';
import { root } from './lib/root.mjs';

const MOST_MIB = 30;
/** Debian 12 and everything newer. */
const GLIBC_FLOOR = [2, 36];
const INSTALL_SCRIPTS = ['preinstall', 'install', 'postinstall', 'prepare'];
const prebuilds = join(root, 'prebuilds/linux-x64');

function demand(condition, message) {
  if (!condition) throw new Failure(message);
  return condition;
}

function checkManifest() {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const found = INSTALL_SCRIPTS.filter((name) => name in manifest.scripts);
  demand(found.length === 0, `package.json has install scripts: ${found.join(', ')}`);
  demand(manifest.gypfile === false, 'package.json lacks "gypfile": false, so npm would compile');
}

/** The newest symbol version of glibc that the addon asks for. */
function checkGlibc() {
  const addon = join(prebuilds, 'embervm.glibc.node');
  demand(existsSync(addon), `${addon} is missing: run "npm run prebuild" first.`);
  const symbols = execFileSync('objdump', ['-T', addon], { encoding: 'utf8' });
  const versions = [...symbols.matchAll(/GLIBC_(\d+)\.(\d+)/g)].map((m) => [+m[1], +m[2]]);
  demand(versions.length > 0, `objdump -T found no glibc symbol in ${addon}`);
  const [major, minor] = versions.sort((a, b) => a[0] - b[0] || a[1] - b[1]).at(-1);
  demand(
    major === GLIBC_FLOOR[0] && minor <= GLIBC_FLOOR[1],
    `the addon needs glibc ${major}.${minor}, the floor is ${GLIBC_FLOOR.join('.')}`,
  );
  console.log(`glibc: needs ${major}.${minor}`);
}

function pack(folder) {
  const [{ filename, files }] = JSON.parse(
    execFileSync('npm', ['pack', '--json', '--ignore-scripts', `--pack-destination=${folder}`], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }),
  );
  const tarball = join(folder, filename);
  const mib = statSync(tarball).size / 2 ** 20;
  demand(mib <= MOST_MIB, `the package is ${mib.toFixed(1)} MiB, the most is ${MOST_MIB}`);
  console.log(`package: ${mib.toFixed(1)} MiB packed, ${files.length} files`);
  return tarball;
}

/** A PATH with Node, npm and what npm's own shell scripts take, and nothing that compiles. */
function makePath(folder) {
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  for (const name of ['npm', 'sh', 'env']) {
    const found = execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim();
    symlinkSync(found, join(bin, name));
  }
  symlinkSync(process.execPath, join(bin, 'node'));
  return bin;
}

/** Installs the tarball into an empty project and runs the main job there. */
function useIt(folder, tarball) {
  const project = join(folder, 'project');
  const home = join(folder, 'home');
  mkdirSync(project);
  mkdirSync(home);
  writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }\n');
  copyFileSync(join(root, 'scripts/verify/main-job.mjs'), join(project, 'main-job.mjs'));
  const options = {
    cwd: project,
    env: { PATH: makePath(folder), HOME: home, ...proxySettings() },
    stdio: 'inherit',
  };
  const install = ['install', '--ignore-scripts', '--no-audit', '--no-fund', tarball];
  demand(spawnSync('npm', install, options).status === 0, 'The package did not install.');
  const job = spawnSync(process.execPath, ['main-job.mjs'], options);
  demand(job.status === 0, 'The installed package did not do the main job.');
}

/** How this machine reaches the npm registry is not what is checked here. */
function proxySettings() {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) =>
      /^(npm_config_|https?_proxy|no_proxy)/i.test(name),
    ),
  );
}

await main(async () => {
  const folder = mkdtempSync(join(tmpdir(), 'embervm-package-'));
  try {
    checkManifest();
    checkGlibc();
    const tarball = pack(folder);
    execFileSync(
      process.execPath,
      [join(root, 'node_modules/publint/src/cli.js'), 'run', tarball, '--strict'],
      { stdio: 'inherit' },
    );
    useIt(folder, tarball);
    console.log('The package works without a compiler and without install scripts.');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
