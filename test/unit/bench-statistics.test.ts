import { describe, expect, it } from 'vitest';
import { comparison, inTurns, verdict } from '../../bench/lib/compare.mjs';
import { probabilityByChance } from '../../bench/lib/permutation.mjs';
import { summarize } from '../../bench/lib/statistics.mjs';

describe('probabilityByChance', () => {
  it('is one of all ways when each pair says the same', () => {
    expect(probabilityByChance([1, 2, 3, 4, 5], [2, 3, 4, 5, 6])).toBe(1 / 32);
    expect(probabilityByChance([1, 1], [9, 9])).toBe(1 / 4);
  });

  it('is one-sided: 1 for what is more', () => {
    expect(probabilityByChance([2, 3, 4], [1, 2, 3])).toBe(1);
  });

  it('counts the ways, as by hand', () => {
    // Differences 3, 2, -1 sum to 4; of the eight sums only 6 and 4 reach it.
    expect(probabilityByChance([0, 0, 1], [3, 2, 0])).toBe(2 / 8);
  });

  it('finds nothing where there is no difference', () => {
    expect(probabilityByChance([1, 1, 1, 1], [1, 1, 1, 1])).toBe(1);
    expect(probabilityByChance([1, 2, 1, 2], [2, 1, 2, 1])).toBe(11 / 16);
  });

  it('is not moved by the rounding of sums', () => {
    const ours = [0.1, 0.2, 0.3, 0.4];
    const theirs = [0.2, 0.3, 0.4, 0.5];
    expect(probabilityByChance(ours, theirs)).toBe(1 / 16);
  });

  it('samples where there are too many ways, and says the same each time', () => {
    const ours = Array.from({ length: 40 }, (_, index) => index % 7);
    const same = ours.map((value, index) => value + (index % 2 === 0 ? 1 : -1));
    const p = probabilityByChance(ours, same);
    expect(p).toBeGreaterThan(0.4);
    expect(p).toBeLessThan(0.7);
    expect(probabilityByChance(ours, same)).toBe(p);
    const more = ours.map((value) => value + 1);
    expect(probabilityByChance(ours, more)).toBeLessThan(0.001);
  });

  it('refuses what is not in pairs', () => {
    expect(() => probabilityByChance([1], [])).toThrow(RangeError);
    expect(() => probabilityByChance([], [])).toThrow(RangeError);
  });
});

describe('comparison', () => {
  it('has the median of the ratios, and whether chance is ruled out', () => {
    const figure = comparison('boot', 'ms', { ours: [1, 2, 4, 5, 5], theirs: [2, 6, 8, 5.5, 15] });
    expect(figure).toMatchObject({ value: 2, min: 1.1, max: 3, pairs: 5, better: true });
    expect(figure.p).toBe(1 / 32);
    expect(figure.ours).toEqual({ median: 4, min: 1, max: 5, samples: [1, 2, 4, 5, 5] });
  });

  it('says so when it is the other way round', () => {
    const series = { ours: [9, 9, 9, 9, 9], theirs: [1, 2, 3, 4, 5] };
    const figure = comparison('boot', 'ms', series);
    expect(figure).toMatchObject({ better: false, worse: true });
    expect(verdict(figure)).toBe('more');
  });

  it('does not call few pairs proof', () => {
    const figure = comparison('boot', 'ms', { ours: [1, 1, 1, 1], theirs: [9, 9, 9, 9] });
    expect(figure.p).toBe(1 / 16);
    expect(verdict(figure)).toBe('no difference shown');
  });
});

describe('inTurns', () => {
  it('changes who begins', async () => {
    const order: string[] = [];
    const side = (name: string) => async () => order.push(name);
    const results = await inTurns(3, { ours: side('a'), theirs: side('b') });
    expect(order.join('')).toBe('abbaab');
    expect(results).toEqual({ ours: [1, 4, 5], theirs: [2, 3, 6] });
  });
});

describe('summarize', () => {
  it('takes the middle of an even number', () => {
    expect(summarize([4, 1, 3, 2])).toEqual({ median: 2.5, min: 1, max: 4 });
  });
});
