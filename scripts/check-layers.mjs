// Holds the code to layers.json: a folder may use itself and the folders of lower tiers, the
// headers of Node stay in native/napi, every C++ source is in native/sources.json, and no file is
// longer than the limit. Another tree than this checkout may be named as the argument.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, extname, join, posix, relative } from 'node:path';
import { root as checkout } from './lib/root.mjs';
import { listFiles } from './lib/stamp.mjs';

const root = process.argv[2] ?? checkout;
const rules = JSON.parse(readFileSync(join(root, 'layers.json'), 'utf8'));
const problems = [];
const read = (file) => readFileSync(join(root, file), 'utf8');

function filesOf(folder, extensions) {
  return listFiles(join(root, folder))
    .map((file) => relative(root, file))
    .filter((file) => extensions.includes(extname(file)));
}

/** "lib/rpc/client.ts" in "lib" is in "rpc"; a file at the top is a folder of its own. */
const folderOf = (path) => path.split('/')[0].replace(/\.\w+$/, '');

/** What a source names, as paths below the language's root; others (libraries) are left out. */
const listUses = {
  cpp: (text) => [...text.matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)].map((match) => match[1]),
  typescript: (text, file) =>
    [...text.matchAll(/\b(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map((match) =>
      posix.join(posix.dirname(file), match[1]),
    ),
};

function checkTiers(language) {
  const { root: top, extensions, tiers, outside } = rules[language];
  const tierOf = (folder) => tiers.findIndex((tier) => tier.includes(folder));
  for (const file of filesOf(top, extensions)) {
    const path = relative(top, file);
    const folder = folderOf(path);
    if (outside.includes(folder)) continue;
    if (tierOf(folder) < 0) {
      problems.push(`${file}: the folder "${folder}" has no tier in layers.json`);
      continue;
    }
    for (const use of listUses[language](read(file), path)) {
      const used = folderOf(use);
      if (used !== folder && (tierOf(used) < 0 || tierOf(used) >= tierOf(folder))) {
        problems.push(`${file}: "${folder}" may not use "${use}"`);
      }
    }
  }
}

function checkHeaders() {
  const { root: top, extensions, headersOfOneFolder } = rules.cpp;
  for (const file of filesOf(top, extensions)) {
    for (const [, header] of read(file).matchAll(/^\s*#\s*include\s+[<"]([^>"]+)[>"]/gm)) {
      const owner = headersOfOneFolder[header];
      if (owner !== undefined && folderOf(relative(top, file)) !== owner) {
        problems.push(`${file}: only ${top}/${owner} may include <${header}>`);
      }
    }
  }
}

function checkSources() {
  const lists = JSON.parse(read('native/sources.json'));
  const listed = [...lists.core, ...lists.napi];
  const outside = rules.cpp.outside;
  const present = filesOf('native', ['.cc']).filter(
    (file) => !outside.includes(folderOf(relative('native', file))),
  );
  for (const file of present.filter((name) => !listed.includes(name))) {
    problems.push(`${file}: is in no list of native/sources.json: run "npm run sources"`);
  }
  for (const file of listed.filter((name) => !existsSync(join(root, name)))) {
    problems.push(`native/sources.json: ${file} does not exist`);
  }
  for (const file of lists.core.filter((name) => dirname(name) === 'native/napi')) {
    problems.push(`native/sources.json: ${file} belongs to "napi"`);
  }
}

function checkLines() {
  const { most, folders, extensions, generated } = rules.lines;
  for (const file of folders.flatMap((folder) => filesOf(folder, extensions))) {
    if (generated.some((folder) => file.startsWith(`${folder}/`))) continue;
    const lines = read(file).split('\n').length - 1;
    if (lines > most) problems.push(`${file}: ${lines} lines, the most is ${most}: split it`);
  }
}

checkTiers('cpp');
checkTiers('typescript');
checkHeaders();
checkSources();
checkLines();
for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exitCode = 1;
