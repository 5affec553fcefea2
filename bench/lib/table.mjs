// The figures for people.
import { verdict } from './compare.mjs';

export function printTable({ suite, compare, version, host, metrics }) {
  const beside = compare === undefined ? '' : ` beside ${compare} ${version}`;
  console.log(`${suite}${beside}, on ${host.kvm} KVM`);
  for (const metric of metrics) printMetric(metric);
}

function printMetric({ name, value, unit, min, max, reason, ...compared }) {
  const range = min === undefined ? '' : `  (${min} to ${max})`;
  console.log(`  ${name.padEnd(34)} ${String(value).padStart(12)} ${unit}${range}`);
  if (reason !== undefined) console.log(`    not available: ${reason}`);
  const { ours, theirs, measured, p, pairs } = compared;
  if (pairs !== undefined) {
    const side = ({ median, min, max }) => `${median} ${measured} (${min} to ${max})`;
    console.log(`    embervm ${side(ours)}, QEMU ${side(theirs)}`);
    console.log(`    ${verdict(compared)}, p = ${p} of ${pairs} pairs`);
  } else if (theirs !== undefined) {
    console.log(`    QEMU ${theirs}`);
  }
}

const SHOWN_FUNCTIONS = 30;

/** The top functions of a profile, with the instructions that their share of the samples stands for. */
export function printProfile({ samples, instructions, functions }) {
  console.log(`${samples} samples until the agent was ready, ${instructions} kernel instructions`);
  for (const { name, share } of functions.slice(0, SHOWN_FUNCTIONS)) {
    const percent = (100 * share).toFixed(1).padStart(5);
    const estimate = instructions > 0 ? Math.round(share * instructions) : '';
    console.log(`  ${percent} %  ${String(estimate).padStart(9)}  ${name}`);
  }
}
