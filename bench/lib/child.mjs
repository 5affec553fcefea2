// Runs a measurement in a process of its own: memory and event-loop figures are those of a program
// that does nothing else.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Runs bench/children/<name>.mjs and parses the JSON that it prints. */
export async function measureInChild(name, nodeOptions = [], args = []) {
  const file = fileURLToPath(new URL(`../children/${name}.mjs`, import.meta.url));
  const { stdout } = await run(process.execPath, [...nodeOptions, file, ...args]);
  return JSON.parse(stdout);
}
