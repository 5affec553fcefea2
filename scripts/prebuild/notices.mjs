// The licence texts and source pointers that go with the binaries in prebuilds/. Each binary is
// made from Debian packages, so the versions are read from the system that built them.
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../lib/root.mjs';

const texts = '/usr/share/common-licenses';
const protobuf = join(root, 'node_modules/@bufbuild/protobuf');
const copyright = (name) => `/usr/share/doc/${name}/copyright`;

/** What is inside which file, the Debian package it came from, and the texts that apply. */
const components = [
  {
    file: 'vmlinux',
    what: 'Linux, with the patches and the configuration in guest/kernel',
    package: 'linux-source-6.1',
    licence: 'GPL-2.0-only WITH Linux-syscall-note',
    texts: {
      'linux-notice.txt': join(root, 'guest/kernel/LICENSE.notice'),
      'GPL-2.txt': `${texts}/GPL-2`,
    },
  },
  {
    file: 'base.erofs',
    what: 'busybox',
    package: 'busybox-static',
    licence: 'GPL-2.0-only',
    texts: { 'busybox-copyright.txt': copyright('busybox-static'), 'GPL-2.txt': `${texts}/GPL-2` },
  },
  {
    file: 'base.erofs',
    what: 'the C library inside busybox',
    package: 'libc6-dev',
    licence: 'LGPL-2.1-or-later',
    texts: { 'glibc-copyright.txt': copyright('libc6-dev'), 'LGPL-2.1.txt': `${texts}/LGPL-2.1` },
  },
  {
    file: 'agent, initramfs.cpio',
    what: 'the C library inside the agent',
    package: 'musl-dev',
    licence: 'MIT',
    texts: { 'musl-copyright.txt': copyright('musl-dev') },
  },
  {
    file: 'agent, initramfs.cpio',
    what: 'protobuf-c inside the agent',
    package: 'libprotobuf-c-dev',
    licence: 'BSD-2-Clause',
    texts: { 'protobuf-c-copyright.txt': copyright('libprotobuf-c-dev') },
  },
  {
    file: '*.node',
    what: 'the C++ runtime inside the addon',
    package: 'libstdc++-12-dev',
    licence: 'GPL-3.0-or-later WITH GCC-exception-3.1',
    texts: {
      'libstdc++-copyright.txt': copyright('libstdc++-12-dev'),
      'GPL-3.txt': `${texts}/GPL-3`,
    },
  },
  {
    file: '*.node',
    what: 'node-addon-api, headers only',
    npm: 'node-addon-api',
    licence: 'MIT',
    texts: { 'node-addon-api.txt': join(root, 'node_modules/node-addon-api/LICENSE.md') },
  },
  {
    file: 'dist/config/zod.js',
    what: 'the parts of zod that validate options',
    npm: 'zod',
    licence: 'MIT',
    texts: { 'zod.txt': join(root, 'node_modules/zod/LICENSE') },
  },
  {
    file: 'dist/rpc/protobuf.js',
    what: 'the reader and writer of @bufbuild/protobuf',
    npm: '@bufbuild/protobuf',
    licence: 'Apache-2.0 AND BSD-3-Clause',
    texts: {
      'Apache-2.0.txt': `${texts}/Apache-2.0`,
      'protobuf-BSD-3-Clause.txt': { leadingComment: `${protobuf}/dist/esm/wire/varint.js` },
    },
  },
];

/** "busybox 1:1.35.0-4+deb12u1": the source package and its version. */
function sourceOf(name) {
  const query = spawnSync(
    'dpkg-query',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query fills these in.
    ['--show', '--showformat=${source:Package} ${source:Version}', name],
    { encoding: 'utf8' },
  );
  if (query.status !== 0) throw new Error(`${name} is not installed: ${query.stderr}`);
  return query.stdout;
}

function describe({ file, what, package: name, npm, licence, texts: files }) {
  const source =
    npm === undefined ? `Debian source package ${sourceOf(name)}` : `npm package ${npm}`;
  return [
    `${file}: ${what}`,
    `  licence: ${licence}`,
    `  source:  ${source}`,
    `  texts:   ${Object.keys(files).join(', ')}`,
  ].join('\n');
}

/** The licence of a package that has it only at the top of the source it came with. */
function leadingComment(path) {
  const lines = readFileSync(path, 'utf8').split('\n');
  const end = lines.findIndex((line) => !line.startsWith('//'));
  const text = lines.slice(0, end).map((line) => `${line.replace(/^\/\/ ?/, '')}\n`);
  if (!text.some((line) => line.startsWith('Redistribution and use'))) {
    throw new Error(`${path} does not begin with its licence`);
  }
  return text.join('');
}

/** Fills `folder` with NOTICE.txt and the texts it names. */
export function writeNotices(folder) {
  mkdirSync(folder, { recursive: true });
  for (const [name, from] of components.flatMap((c) => Object.entries(c.texts))) {
    const to = join(folder, name);
    if (typeof from === 'string') copyFileSync(from, to);
    else writeFileSync(to, leadingComment(from.leadingComment));
  }
  const notice = `embervm is licensed under the Apache License 2.0 (LICENSE at the top of the package).
The binaries beside this folder contain or are other works, unmodified unless it is said:

${components.map(describe).join('\n\n')}

A Debian source package is had with "apt-get source <name>=<version>" on Debian 12, or from
Debian's snapshot archive under that name and version. With it, guest/kernel/build makes vmlinux
and guest/base/build makes base.erofs again.
`;
  writeFileSync(join(folder, 'NOTICE.txt'), notice);
}
