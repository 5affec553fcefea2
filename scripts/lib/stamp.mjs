// Knows whether a step is up to date: the hash of everything that goes into it, kept in
// build/stamps once the step has succeeded.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { root } from './root.mjs';

/** Every file at or below `path`, sorted; a path that does not exist has none. */
export function listFiles(path, skip = []) {
  if (!existsSync(path)) return [];
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path)
    .sort()
    .map((name) => join(path, name))
    .filter((child) => !skip.includes(relative(root, child)))
    .flatMap((child) => listFiles(child, skip));
}

/**
 * @param {string[]} inputs files and folders, relative to the checkout
 * @param {{ skip?: string[], facts?: string[] }} more folders to leave out; versions of tools
 */
export function hashInputs(inputs, { skip = [], facts = [] } = {}) {
  const hash = createHash('sha256');
  for (const fact of facts) hash.update(`${fact}\0`);
  for (const file of inputs.flatMap((input) => listFiles(join(root, input), skip))) {
    hash
      .update(`${relative(root, file)}\0`)
      .update(readFileSync(file))
      .update('\0');
  }
  return hash.digest('hex');
}

const stampFile = (name) => join(root, 'build/stamps', name);

export function isStamped(name, hash, outputs) {
  return (
    outputs.every((output) => existsSync(join(root, output))) &&
    existsSync(stampFile(name)) &&
    readFileSync(stampFile(name), 'utf8') === hash
  );
}

export function stamp(name, hash) {
  mkdirSync(dirname(stampFile(name)), { recursive: true });
  writeFileSync(stampFile(name), hash);
}
