// Results that are kept: bench/results/<name>.json, one for each suite and each comparison.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const directory = fileURLToPath(new URL('../results', import.meta.url));

/** Keeps a result in place of the one before. */
export function saveResult(result) {
  const name = result.compare === undefined ? result.suite : `${result.suite}-${result.compare}`;
  writeFileSync(`${directory}/${name}.json`, `${JSON.stringify(result, null, 2)}\n`);
}

/** What is kept, by name. */
export function readResults() {
  return readdirSync(directory)
    .filter((name) => name.endsWith('.json'))
    .sort()
    .map((name) => JSON.parse(readFileSync(`${directory}/${name}`, 'utf8')));
}
