// The figures for people.
export function printTable({ suite, host, metrics }) {
  console.log(`${suite}, on ${host.kvm} KVM`);
  for (const { name, value, unit, min, max } of metrics) {
    const range = min === undefined ? '' : `  (${min} to ${max})`;
    console.log(`  ${name.padEnd(34)} ${String(value).padStart(12)} ${unit}${range}`);
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
