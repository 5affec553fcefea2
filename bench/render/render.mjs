// Writes docs/performance.md and its chart from results that are kept.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../../scripts/lib/root.mjs';
import { replaceResults } from './markdown.mjs';
import { readResults } from './results.mjs';
import { renderSvg } from './svg.mjs';

const page = join(root, 'docs/performance.md');
const chart = join(root, 'docs/performance.svg');

/** Both files as they should be. */
export function renderAll() {
  const results = readResults();
  return [
    [page, replaceResults(readFileSync(page, 'utf8'), results)],
    [chart, renderSvg(results)],
  ];
}

export function writeAll() {
  for (const [path, content] of renderAll()) writeFileSync(path, content);
}
