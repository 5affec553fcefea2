// The host that figures were taken on: a figure without it says little.
import { cpus } from 'node:os';
import { probeHost, runtimeVersion } from '../../dist/index.js';

export function describeHost() {
  const { kvm, memoryMib } = probeHost();
  const all = cpus();
  return {
    kvm,
    cpus: all.length,
    cpu: all[0]?.model.trim() ?? 'unknown',
    memoryMib,
    node: process.versions.node,
    runtime: runtimeVersion(),
  };
}
