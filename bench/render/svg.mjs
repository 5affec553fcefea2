// Comparisons as a chart: two bars a figure, as long as the medians, with a line from the least to
// the greatest. Each figure has a scale of its own.
import { verdict } from '../lib/compare.mjs';
import { amount, probability } from './markdown.mjs';

const WIDTH = 720;
const LEFT = 220;
const RIGHT = 170;
const TOP = 40;
const BAR = 16;
const ROW = 62;
const TEXT = 12;
const COLOURS = { ours: '#d9480f', theirs: '#868e96' };
const NAMES = { ours: 'embervm', theirs: 'QEMU' };

const escaped = (text) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

const text = (x, y, content, rest = '') =>
  `  <text x="${x}" y="${y}"${rest}>${escaped(content)}</text>`;

const place = (value) => Number(value.toFixed(1));

function bar(side, metric, y) {
  const { median, min, max } = metric[side];
  const longest = Math.max(metric.ours.max, metric.theirs.max);
  const at = (value) => place(LEFT + ((WIDTH - LEFT - RIGHT) * value) / longest);
  const middle = y + BAR / 2;
  return [
    `  <rect x="${LEFT}" y="${y}" width="${place(at(median) - LEFT)}" height="${BAR}" fill="${COLOURS[side]}"/>`,
    `  <path d="M${at(min)} ${middle}H${at(max)}" stroke="#495057" stroke-width="2"/>`,
    text(at(max) + 6, y + TEXT, `${amount(median)} ${metric.measured}`),
  ];
}

function row(metric, index) {
  const y = TOP + index * ROW;
  const outcome = `${verdict(metric)}, p = ${probability(metric.p)}`;
  return [
    text(LEFT - 10, y + TEXT, metric.name, ' text-anchor="end"'),
    text(LEFT - 10, y + TEXT + BAR + 2, outcome, ' text-anchor="end" opacity="0.7"'),
    ...bar('ours', metric, y),
    ...bar('theirs', metric, y + BAR + 2),
  ];
}

/** Of all comparisons among the results; less is better in each. */
export function renderSvg(results) {
  const metrics = results
    .flatMap((result) => result.metrics)
    .filter((metric) => metric.pairs !== undefined);
  const kinds = [...new Set(results.map(({ host }) => host.kvm))].join(', ');
  const height = TOP + metrics.length * ROW;
  const legend = Object.entries(NAMES).flatMap(([side, name], index) => [
    `  <rect x="${LEFT + index * 90}" y="12" width="12" height="12" fill="${COLOURS[side]}"/>`,
    text(LEFT + index * 90 + 18, 22, name),
  ]);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif" font-size="${TEXT}">`,
    `  <title>embervm and QEMU on one host (${kinds} KVM): medians, with the least and the greatest; less is better</title>`,
    `  <rect width="${WIDTH}" height="${height}" fill="#ffffff"/>`,
    ...legend,
    ...metrics.flatMap(row),
    '</svg>',
    '',
  ].join('\n');
}
