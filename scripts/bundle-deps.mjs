// bundle-deps.mjs <dist>: puts what we use of zod and of the protobuf runtime into one file each,
// in place of the modules that only re-export them. Resolving and linking their hundreds of files
// would be most of the time that the first sandbox of a process takes to create in JavaScript, and
// hold up the event loop in pieces of 30 ms. Without this step everything works the same, slower.
import { readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { rolldown } from 'rolldown';
import { root } from './lib/root.mjs';

const dist = resolve(process.argv[2] ?? join(root, 'dist'));
const bundles = [
  { file: 'config/zod.js', packages: ['zod'] },
  { file: 'rpc/protobuf.js', packages: ['@bufbuild/protobuf'] },
];

/** Name, version and licence of what is in a bundle; the texts ship with the packages. */
function banner(packages) {
  const lines = packages.map((name) => {
    const { version, license } = JSON.parse(
      readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8'),
    );
    return `${name} ${version}, ${license}: see the LICENSE of that package`;
  });
  return `/* Contains parts of ${lines.join('; ')}. */`;
}

for (const { file, packages } of bundles) {
  const path = join(dist, file);
  const bundle = await rolldown({
    input: path,
    platform: 'node',
    resolve: { modules: [join(root, 'node_modules')] },
  });
  await bundle.write({ file: `${path}.bundle`, format: 'esm', banner: banner(packages) });
  await bundle.close();
  renameSync(`${path}.bundle`, path);
}

// Generated code names the runtime itself.
const generated = join(dist, 'rpc/gen');
for (const name of readdirSync(generated).filter((entry) => entry.endsWith('.js'))) {
  const path = join(generated, name);
  const text = readFileSync(path, 'utf8');
  writeFileSync(path, text.replaceAll('"@bufbuild/protobuf/codegenv2"', '"../protobuf.js"'));
}
