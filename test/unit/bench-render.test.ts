import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { comparison } from '../../bench/lib/compare.mjs';
import { renderMarkdown, replaceResults } from '../../bench/render/markdown.mjs';
import { renderAll } from '../../bench/render/render.mjs';
import { renderSvg } from '../../bench/render/svg.mjs';

const host = { kvm: 'pvm', cpus: 2, cpu: 'A <CPU>', memoryMib: 24_576 };
const compared = {
  suite: 'boot',
  compare: 'qemu',
  version: '7.2',
  host,
  metrics: [
    comparison('boot_vs_qemu', 'ms', {
      ours: [9000, 9000, 9000, 9000, 12_500],
      theirs: [13_000, 14_000, 15_000, 16_000, 25_000],
    }),
    comparison('rss_vs_qemu', 'MiB', { ours: [5, 6], theirs: [6, 5] }),
    { name: 'vsock', value: null, unit: '', reason: 'no vhost-vsock' },
    { name: 'exits', value: 3, unit: '', theirs: 9.5 },
  ],
};
const alone = {
  suite: 'exec',
  host,
  metrics: [
    { name: 'exec_us', value: 7, unit: 'us', min: 5, max: 9 },
    { name: 'instructions', value: null, unit: 'instructions' },
  ],
};

describe('renderMarkdown', () => {
  const page = renderMarkdown([compared, alone]);

  it('has a row for each figure, and the host', () => {
    expect(page).toContain('Taken on pvm KVM, 2 CPUs (A <CPU>), 24 GiB.');
    expect(page).toContain(
      '| `boot_vs_qemu` | 9,000 ms (9,000 to 12,500) | 15,000 ms (13,000 to 25,000) | ' +
        '1.67 × (1.44 to 2) | less, p = 0.031 |',
    );
    expect(page).toContain('| `exec_us` | 7 | us | 5 to 9 |  |');
  });

  it('does not call chance a result', () => {
    expect(page).toMatch(/`rss_vs_qemu` .* no difference shown, p = 0\.75/);
  });

  it('says why a figure is missing', () => {
    expect(page).toContain('| `vsock` | – | – |  | no vhost-vsock |');
    expect(page).toContain('| `exits` | 3 | 9.5 |  |  |');
    expect(page).toContain('| `instructions` | – | instructions |  |  |');
  });
});

describe('replaceResults', () => {
  it('changes only what is between the marks, and again the same', () => {
    const page = readFileSync(new URL('../../docs/performance.md', import.meta.url), 'utf8');
    const once = replaceResults(page, [alone]);
    expect(once).toContain('exec_us');
    expect(once.split('## Results')[0]).toBe(page.split('## Results')[0]);
    expect(replaceResults(once, [alone])).toBe(once);
  });

  it('refuses a page without marks', () => {
    expect(() => replaceResults('# nothing', [])).toThrow('no place');
  });
});

describe('renderSvg', () => {
  const svg = renderSvg([compared, alone]);

  it('has two bars for each comparison, the longer being the greater', () => {
    const bars = [...svg.matchAll(/<rect x="220" y="\d+" width="([\d.]+)" height="16"/g)];
    const [ours, theirs] = bars.map(([, width]) => Number(width));
    expect(bars).toHaveLength(4);
    expect(theirs).toBeCloseTo(((720 - 390) * 15) / 25, 1);
    expect((ours ?? 0) / (theirs ?? 1)).toBeCloseTo(9 / 15, 2);
  });

  it('stays within its picture', () => {
    const height = Number(/viewBox="0 0 720 (\d+)"/.exec(svg)?.[1]);
    for (const [, y] of svg.matchAll(/ y="([\d.]+)"/g)) expect(Number(y)).toBeLessThan(height);
    expect(svg).toContain('no difference shown, p = 0.75');
  });
});

it('docs/performance is what bench/results renders to', () => {
  for (const [path, content] of renderAll()) {
    expect(readFileSync(path as string, 'utf8'), `run npm run bench -- --render`).toBe(content);
  }
});
