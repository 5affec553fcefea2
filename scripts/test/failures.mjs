// What failed in a suite, one line each, so that the end of a long log still names it.
import { relative } from 'node:path';
import { root } from '../lib/root.mjs';

const MAX_LINE = 200;
/** With the counts below and above them, this fits a tail of 100 lines. */
const MAX_LISTED = 80;

const clip = (text) => (text.length > MAX_LINE ? `${text.slice(0, MAX_LINE - 1)}…` : text);
// biome-ignore lint/suspicious/noControlCharactersInRegex: terminals' colours begin with one.
const plain = (text) => text.replace(/\u001b\[[0-9;]*m/g, '');
const firstLine = (text) =>
  plain(text ?? '')
    .split('\n')[0]
    .trim();

const describe = (test, message) => (message === '' ? test : `${test}: ${message}`);

/** A sanitizer ends the program, or lets it go on and fails it in the end. */
const SANITIZER = /(?:ERROR|WARNING): \w+Sanitizer: .*|\S+: runtime error: .*/;

/** From the output of doctest: the first failed check of each test case, and sanitizers' findings. */
export function doctestFailures(output) {
  const failures = new Map();
  let test = 'before any test';
  for (const line of plain(output).split('\n')) {
    const name = /^TEST CASE: +(.*)$/.exec(line)?.[1];
    if (name !== undefined) test = name;
    const check = /^(\S+:\d+): (?:FATAL )?ERROR: (.*)$/.exec(line);
    const found = SANITIZER.exec(line)?.[0];
    if (check !== null && !failures.has(test)) {
      failures.set(test, describe(test, `${check[2]} (${check[1].split('/').at(-1)})`));
    } else if (found !== undefined && !failures.has(found)) {
      failures.set(found, found);
    }
  }
  return [...failures.values()];
}

/** What a fuzz target found, or said last. */
export function fuzzFailure(name, output) {
  const lines = plain(output).trimEnd().split('\n');
  const summary = lines.find((line) => line.startsWith('SUMMARY:'));
  return describe(name, summary ?? lines.at(-1));
}

/** From the JSON record of vitest; a file that did not load has no failed test in it. */
export function vitestFailures({ testResults }) {
  return testResults.flatMap((file) => {
    const path = relative(root, file.name);
    const failed = file.assertionResults.filter(({ status }) => status === 'failed');
    if (failed.length === 0 && file.status === 'failed') {
      return [describe(path, firstLine(file.message))];
    }
    return failed.map(({ fullName, failureMessages }) =>
      describe(`${path}: ${fullName}`, firstLine(failureMessages[0])),
    );
  });
}

/** The lines for the end of the log. */
export function listFailures(results) {
  const lines = results.flatMap(({ name, failures }) =>
    failures.map((failure) => clip(`${name}: ${firstLine(failure)}`)),
  );
  if (lines.length <= MAX_LISTED) return lines;
  return [...lines.slice(0, MAX_LISTED), `… and ${lines.length - MAX_LISTED} more`];
}
