// bundle-deps.mjs [dist]: puts what we use of zod and of the protobuf runtime into a few files, in
// place of the modules that only re-export them. Resolving and linking their hundreds of files
// would be most of the time that the first sandbox of a process takes to create in JavaScript, and
// would hold up the event loop in pieces of 30 ms. Without this step all works the same, slower.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { rolldown } from 'rolldown';
import { root } from './lib/root.mjs';

const dist = resolve(process.argv[2] ?? join(root, 'dist'));
const bundles = [
  { directory: 'config', module: 'zod.js', name: 'zod' },
  { directory: 'rpc', module: 'protobuf.js', name: '@bufbuild/protobuf' },
];

/** Name, version and licence of what is in a bundle; the texts ship beside the binaries. */
function banner(name) {
  const manifest = join(root, 'node_modules', name, 'package.json');
  const { version, license } = JSON.parse(readFileSync(manifest, 'utf8'));
  return `/* Parts of ${name} ${version}, ${license}: see prebuilds/<platform>/licenses. */`;
}

for (const { directory, module, name } of bundles) {
  const dir = join(dist, directory);
  const bundle = await rolldown({
    input: join(dir, module),
    platform: 'node',
    // Of the dependencies, also when `dist` is elsewhere.
    resolve: { modules: [join(root, 'node_modules')] },
  });
  await bundle.write({ dir, format: 'esm', banner: banner(name), entryFileNames: module });
  await bundle.close();
}

// Generated code names the runtime itself.
const generated = join(dist, 'rpc/gen');
for (const file of readdirSync(generated).filter((entry) => entry.endsWith('.js'))) {
  const path = join(generated, file);
  const text = readFileSync(path, 'utf8');
  writeFileSync(path, text.replaceAll('"@bufbuild/protobuf/wire"', '"../protobuf.js"'));
}
