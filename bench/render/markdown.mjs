// Results as the generated part of docs/performance.md.
import { verdict } from '../lib/compare.mjs';

const BEGIN = '<!-- results: npm run bench -- --render -->\n';
const END = '<!-- end of results -->\n';

const table = (head, rows) => {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return [line(head), `|${'---|'.repeat(head.length)}`, ...rows.map(line)].join('\n');
};

export const amount = (value) =>
  Math.abs(value) >= 1000 ? Math.round(value).toLocaleString('en-US') : String(value);

const range = ({ median, min, max }, unit) =>
  `${amount(median)} ${unit} (${amount(min)} to ${amount(max)})`;

/** `0.0039`, and never a plain 0. */
export const probability = (p) => (p < 0.0001 ? '< 0.0001' : String(Number(p.toPrecision(2))));

function comparedRow(metric) {
  const name = `\`${metric.name}\``;
  if (metric.value === null) return [name, 'not available', '', '', metric.reason];
  return [
    name,
    range(metric.ours, metric.measured),
    range(metric.theirs, metric.measured),
    `${metric.value} × (${metric.min} to ${metric.max})`,
    `${verdict(metric)}, p = ${probability(metric.p)}`,
  ];
}

function besideRow({ name, value, unit, theirs, reason }) {
  const cell = (figure) => (figure === null || figure === undefined ? '–' : amount(figure));
  return [`\`${name}\``, cell(value), cell(theirs), unit, reason ?? ''];
}

function singleRow({ name, value, unit, min, max, reason }) {
  const ends = min === undefined || max === undefined ? '' : `${amount(min)} to ${amount(max)}`;
  return [`\`${name}\``, value === null ? '–' : amount(value), unit, ends, reason ?? ''];
}

const host = ({ kvm, cpus, memoryMib, cpu }) =>
  `${kvm} KVM, ${cpus} CPUs (${cpu}), ${Math.round(memoryMib / 1024)} GiB`;

function section({ suite, compare, version, host: taken, metrics }) {
  const title =
    compare === undefined ? `\`${suite}\`` : `\`${suite} --compare ${compare}\`, QEMU ${version}`;
  const compared = metrics.filter((metric) => metric.pairs !== undefined);
  const beside = metrics.filter((metric) => metric.pairs === undefined && compare !== undefined);
  const single = metrics.filter(() => compare === undefined);
  const parts = [`### ${title}`, `Taken on ${host(taken)}.`];
  if (compared.length > 0) {
    const head = ['figure', 'embervm', 'QEMU', 'QEMU takes', 'embervm takes'];
    parts.push(`${compared[0].pairs} pairs, in turns.`, table(head, compared.map(comparedRow)));
  }
  if (beside.length > 0) {
    parts.push(table(['figure', 'embervm', 'QEMU', 'unit', ''], beside.map(besideRow)));
  }
  if (single.length > 0) {
    parts.push(table(['figure', 'value', 'unit', 'min to max', ''], single.map(singleRow)));
  }
  return parts.join('\n\n');
}

/** The generated part by itself. */
export function renderMarkdown(results) {
  return results.map((result) => `${section(result)}\n`).join('\n');
}

/** A page with what is between its two marks replaced. */
export function replaceResults(page, results) {
  const begin = page.indexOf(BEGIN);
  const end = page.indexOf(END);
  if (begin === -1 || end < begin) throw new Error('the page has no place for results');
  return `${page.slice(0, begin + BEGIN.length)}\n${renderMarkdown(results)}\n${page.slice(end)}`;
}
