// npm run prebuild: fills prebuilds/linux-x64 with everything that a package runs on: the addon,
// the guest's kernel, initramfs and agent, the base image, the templates, the licence texts.
import { cpSync, mkdirSync, readdirSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { main } from './lib/failure.mjs';
import { headersOfNode } from './lib/node-headers.mjs';
import { root } from './lib/root.mjs';
import { runLogged } from './lib/run.mjs';
import { setUp } from './lib/set-up.mjs';
import { writeNotices } from './prebuild/notices.mjs';

const target = join(root, 'prebuilds/linux-x64');
const assets = [
  'agent',
  'initramfs.cpio',
  'vmlinux',
  'base.erofs',
  'upper.ext4.sparse',
  'upper-64.ext4.sparse',
];

/** prebuildify starts by deleting its build folder, so it gets a copy of the sources. */
async function buildAddon() {
  const stage = join(root, 'build/prebuild');
  rmSync(stage, { recursive: true, force: true });
  mkdirSync(stage, { recursive: true });
  for (const name of ['package.json', 'binding.gyp', 'native']) {
    cpSync(join(root, name), join(stage, name), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(stage, 'node_modules'));
  const nodedir = headersOfNode();
  await runLogged(
    'prebuild',
    [
      process.execPath,
      join(root, 'node_modules/prebuildify/bin.js'),
      '--napi',
      '--strip',
      '--tag-libc',
      `--cwd=${stage}`,
      `--out=${root}`,
    ],
    nodedir === undefined ? {} : { env: { npm_config_nodedir: nodedir } },
  );
}

await main(async () => {
  setUp();
  rmSync(join(root, 'prebuilds'), { recursive: true, force: true });
  await buildAddon();
  for (const name of assets) cpSync(join(root, 'build/guest', name), join(target, name));
  writeNotices(join(target, 'licenses'));
  for (const name of readdirSync(target)) {
    const { size } = statSync(join(target, name));
    console.log(`${(size / 1024).toFixed(0).padStart(8)} KiB  prebuilds/linux-x64/${name}`);
  }
});
