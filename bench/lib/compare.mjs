// Two of a kind, measured in turns: the host's other work then falls on both alike.
import { probabilityByChance } from './permutation.mjs';
import { round, summarize } from './statistics.mjs';

const SIGNIFICANT = 0.05;

/**
 * Runs `ours` and `theirs` as often as `pairs` says, the first of each pair being the second of the
 * next.
 *
 * @template T
 * @param {number} pairs
 * @param {{ ours: () => Promise<T>, theirs: () => Promise<T>, note?: (text: string) => void }} sides
 * @returns {Promise<{ ours: T[], theirs: T[] }>}
 */
export async function inTurns(pairs, { ours, theirs, note = () => {} }) {
  const results = { ours: [], theirs: [] };
  for (let pair = 0; pair < pairs; pair++) {
    note(`pair ${pair + 1} of ${pairs}…`);
    const run = async (side, measure) => results[side].push(await measure());
    if (pair % 2 === 0) {
      await run('ours', ours);
      await run('theirs', theirs);
    } else {
      await run('theirs', theirs);
      await run('ours', ours);
    }
  }
  return results;
}

/** The outcome in words: what `ours` is shown to take, if anything. */
export function verdict({ better, worse }) {
  if (better) return 'less';
  return worse ? 'more' : 'no difference shown';
}

const side = (values) => {
  const { median, min, max } = summarize(values);
  return {
    median: round(median),
    min: round(min),
    max: round(max),
    samples: values.map((value) => round(value)),
  };
};

/**
 * A figure of a comparison in which less is better. `value` is how many times as much the other one
 * takes (the median of the pairs); `better` and `worse` say whether chance is ruled out.
 *
 * @param {string} name
 * @param {string} unit of what was measured
 * @param {{ ours: number[], theirs: number[] }} pairs
 */
export function comparison(name, unit, { ours, theirs }) {
  const ratios = summarize(ours.map((value, index) => theirs[index] / value));
  const p = probabilityByChance(ours, theirs);
  return {
    name,
    value: round(ratios.median),
    unit: 'times',
    min: round(ratios.min),
    max: round(ratios.max),
    p: round(p, 6),
    better: p < SIGNIFICANT,
    worse: probabilityByChance(theirs, ours) < SIGNIFICANT,
    pairs: ours.length,
    measured: unit,
    ours: side(ours),
    theirs: side(theirs),
  };
}
