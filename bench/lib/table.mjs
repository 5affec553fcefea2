// The figures for people.
export function printTable({ suite, host, metrics }) {
  console.log(`${suite}, on ${host.kvm} KVM`);
  for (const { name, value, unit, min, max } of metrics) {
    const range = min === undefined ? '' : `  (${min} to ${max})`;
    console.log(`  ${name.padEnd(34)} ${String(value).padStart(12)} ${unit}${range}`);
  }
}
