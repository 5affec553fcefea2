// The table of set-up steps, in order. A step is up to date when `upToDate()` says so, or when the
// hash of its inputs is the one stamped after its last success and its outputs exist.
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ccacheForGyp } from '../lib/ccache.mjs';
import { Failure } from '../lib/failure.mjs';
import { headersOfNode } from '../lib/node-headers.mjs';
import { root } from '../lib/root.mjs';
import { runLogged } from '../lib/run.mjs';
import { install, listMissing } from './debian.mjs';
import { isInstalled } from './npm.mjs';

const node = process.execPath;
const inModules = (path) => join(root, 'node_modules', path);

function versionOf(...packages) {
  return spawnSync('dpkg-query', ['--show', ...packages], { encoding: 'utf8' }).stdout;
}

/** Puts a finished file in place in one step, so that a reader never sees half of it. */
function place(from, to) {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, `${to}.tmp`);
  renameSync(`${to}.tmp`, to);
}

/**
 * @typedef {object} Step
 * @property {string} name of the step, its log and its stamp
 * @property {string} title
 * @property {() => boolean} [upToDate]
 * @property {string[]} [inputs] files and folders
 * @property {string[]} [skip] folders below them that do not count
 * @property {() => string[]} [facts] what else the result depends on
 * @property {string[]} [outputs]
 * @property {(onLine: (line: string) => void) => Promise<unknown>} run
 */

/** @type {Step[]} */
export const steps = [
  {
    name: 'packages',
    title: 'Debian packages',
    upToDate: () => listMissing().length === 0,
    run: (onLine) => install(listMissing(), onLine),
  },
  {
    name: 'npm',
    title: 'npm dependencies',
    upToDate: isInstalled,
    run: (onLine) =>
      runLogged('npm', ['npm', 'ci', '--no-audit', '--no-fund'], {
        onLine,
        cure: 'Check that npm reaches its registry, and run the command again.',
      }),
  },
  {
    name: 'addon',
    title: 'addon (C++)',
    inputs: ['native', 'binding.gyp', 'package-lock.json'],
    skip: ['native/agent', 'native/test', 'native/fuzz', 'native/bench'],
    facts: () => [process.version, versionOf('g++')],
    outputs: ['build/Release/embervm.node'],
    run: (onLine) => {
      const nodedir = headersOfNode();
      const gyp = [node, inModules('node-gyp/bin/node-gyp.js'), 'configure', 'build', '--jobs=max'];
      if (nodedir !== undefined) gyp.push(`--nodedir=${nodedir}`);
      return runLogged('addon', gyp, { onLine, env: ccacheForGyp() });
    },
  },
  {
    name: 'agent',
    title: 'guest agent (C)',
    inputs: ['native/agent', 'proto'],
    facts: () => [versionOf('musl-tools', 'libprotobuf-c-dev', 'gcc')],
    outputs: ['build/guest/agent', 'build/guest/containers'],
    run: (onLine) => runLogged('agent', [join(root, 'native/agent/build')], { onLine }),
  },
  {
    name: 'initramfs',
    title: 'initramfs',
    inputs: ['guest/initramfs', 'build/guest/agent', 'build/guest/containers'],
    outputs: ['build/guest/initramfs.cpio'],
    run: (onLine) => runLogged('initramfs', [join(root, 'guest/initramfs/build')], { onLine }),
  },
  {
    name: 'kernel',
    title: 'guest kernel (about 5 min)',
    inputs: ['guest/kernel'],
    facts: () => [versionOf('linux-source-6.1', 'gcc')],
    outputs: ['build/guest/vmlinux'],
    run: async (onLine) => {
      const cache = await runLogged('kernel', [join(root, 'guest/kernel/build')], { onLine });
      const vmlinux = join(cache, 'vmlinux');
      if (!existsSync(vmlinux)) {
        throw new Failure(`guest/kernel/build left no ${vmlinux}: read build/log/kernel.log.`);
      }
      place(vmlinux, join(root, 'build/guest/vmlinux'));
    },
  },
  {
    name: 'base-image',
    title: 'base image',
    inputs: ['guest/base', 'native/image'],
    facts: () => [versionOf('busybox-static')],
    outputs: ['build/guest/base.erofs'],
    run: (onLine) => runLogged('base-image', [join(root, 'guest/base/build')], { onLine }),
  },
  {
    name: 'upper-templates',
    title: 'writable-layer templates',
    inputs: ['guest/upper'],
    facts: () => [versionOf('e2fsprogs')],
    outputs: ['build/guest/upper.ext4.sparse', 'build/guest/upper-64.ext4.sparse'],
    run: (onLine) => runLogged('upper-templates', [join(root, 'guest/upper/build')], { onLine }),
  },
  {
    name: 'typescript',
    title: 'TypeScript',
    inputs: [
      'lib',
      'tsconfig.json',
      'tsconfig.base.json',
      'package-lock.json',
      'scripts/bundle-deps.mjs',
    ],
    outputs: ['dist/index.js'],
    run: async (onLine) => {
      const fresh = join(root, 'build/dist');
      rmSync(fresh, { recursive: true, force: true });
      const tsc = inModules('typescript/bin/tsc');
      await runLogged('typescript', [node, tsc, '-p', 'tsconfig.json', '--outDir', fresh], {
        onLine,
      });
      const bundle = join(root, 'scripts/bundle-deps.mjs');
      await runLogged('typescript', [node, bundle, fresh], { onLine, append: true });
      rmSync(join(root, 'dist'), { recursive: true, force: true });
      renameSync(fresh, join(root, 'dist'));
    },
  },
];
