// npm run sources: writes native/sources.json, the list that binding.gyp and CMake build from,
// after a C++ source was added or removed. `npm run check` says when it is due.
import { readFileSync, writeFileSync } from 'node:fs';
import { extname, join, relative } from 'node:path';
import { root } from './lib/root.mjs';
import { listFiles } from './lib/stamp.mjs';

const { tiers } = JSON.parse(readFileSync(join(root, 'layers.json'), 'utf8')).cpp;

const sourcesOf = (folders) =>
  folders
    .flatMap((folder) => listFiles(join(root, 'native', folder)))
    .filter((file) => extname(file) === '.cc')
    .map((file) => relative(root, file))
    .sort();

const lists = {
  core: sourcesOf(tiers.flat().filter((folder) => folder !== 'napi')),
  napi: sourcesOf(['napi']),
};
writeFileSync(join(root, 'native/sources.json'), `${JSON.stringify(lists, null, 2)}\n`);
