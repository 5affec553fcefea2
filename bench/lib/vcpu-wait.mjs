// How long this process's virtual CPUs waited for a core of the host, in ms: neither the guest's
// work nor the monitor's. The second figure of schedstat (Documentation/scheduler/sched-stats.rst).
import { readdirSync, readFileSync } from 'node:fs';

const TASKS = '/proc/self/task';
const NS_PER_MS = 1e6;

const read = (task, file) => readFileSync(`${TASKS}/${task}/${file}`, 'utf8').trim();

/** Finds the threads once, and returns what reads their sum. */
export function vcpuWaitReader() {
  const vcpus = readdirSync(TASKS).filter((task) => read(task, 'comm').startsWith('ember-vcpu'));
  if (vcpus.length === 0) throw new Error('no thread of this process is a virtual CPU');
  return () =>
    vcpus.reduce((sum, task) => sum + Number(read(task, 'schedstat').split(' ')[1]), 0) / NS_PER_MS;
}
