/** What a sandbox uses, from the monitor's counters; only the free memory is asked of the guest. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ResolvedMetricsStreamOptions } from '../config/metrics.js';
import { abortedError } from '../errors.js';
import { waitFor } from '../machine/wait.js';
import type { NativeStats } from '../native/types.js';
import type { GuestMemory } from '../rpc/agent-client.js';
import type { Metrics } from './types.js';

const NS_PER_MS = 1e6;
/** A guest that is busy or hostile must not hold up who asks how busy it is. */
const GUEST_TIMEOUT_MS = 1_000;
/** How long the release of a sandbox that has ended may take. */
const ENDING_MS = 5_000;

export interface MetricsSource {
  /** When the sandbox was ready, by the clock of `stats()`. */
  readonly startedAtNs: number;
  /** Of a machine whose counters do not tell. */
  readonly limitBytes: number;
  stats(): NativeStats;
  residentBytes(): Promise<number | null>;
  guestMemory(timeoutMs: number): Promise<GuestMemory | null>;
  runningProcesses(): number;
}

const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);

/** One sample; `since` is the one before it in a stream. */
export async function sampleMetrics(source: MetricsSource, since?: Metrics): Promise<Metrics> {
  // Before the guest is asked, which costs it time. Uptime and CPU time are of one moment.
  const stats = source.stats();
  const uptimeMs = (stats.atNs - source.startedAtNs) / NS_PER_MS;
  const timeMs = sum(stats.vcpus.map((vcpu) => vcpu.cpuTimeNs)) / NS_PER_MS;
  const emulated = stats.vcpus.map((vcpu) => vcpu.emulatedInstructions);
  const halted = stats.vcpus.map((vcpu) => vcpu.haltedNs);
  const drives = Object.values(stats.drives);
  const [residentBytes, guest] = await Promise.all([
    source.residentBytes(),
    source.guestMemory(GUEST_TIMEOUT_MS).catch(() => null),
  ]);
  const elapsed = uptimeMs - (since?.uptimeMs ?? 0);
  const used = timeMs - (since?.cpu.timeMs ?? 0);
  return {
    uptimeMs,
    cpu: {
      timeMs,
      deviceMs: sum(stats.vcpus.map((vcpu) => vcpu.deviceTimeNs)) / NS_PER_MS,
      cpus: stats.vcpus.length,
      percent: elapsed > 0 ? (100 * used) / elapsed : 0,
      haltedMs: halted.some((ns) => ns < 0) ? null : sum(halted) / NS_PER_MS,
      exits: sum(stats.vcpus.map((vcpu) => vcpu.exits)),
      deviceExits: sum(stats.vcpus.map((vcpu) => vcpu.deviceExits)),
      emulatedInstructions: emulated.some((count) => count < 0) ? null : sum(emulated),
    },
    memory: { limitBytes: stats.memory?.bytes ?? source.limitBytes, residentBytes, guest },
    disk: {
      readBytes: sum(drives.map((drive) => drive.readBytes)),
      writtenBytes: sum(drives.map((drive) => drive.writtenBytes)),
    },
    vsock: { receivedBytes: stats.vsock.rxBytes, sentBytes: stats.vsock.txBytes },
    processes: { running: source.runningProcesses() },
  };
}

/** A sample now and one after each interval, until the sandbox ends or the loop is left. */
export async function* metricsStream(
  sample: (since: Metrics | undefined) => Promise<Metrics>,
  ended: Promise<unknown>,
  { intervalMs, signal }: ResolvedMetricsStreamOptions,
): AsyncGenerator<Metrics, void, void> {
  const ending = new AbortController();
  const over = ended.then(
    () => true,
    () => true,
  );
  void over.then(() => ending.abort());
  const wake = signal === undefined ? ending.signal : AbortSignal.any([ending.signal, signal]);
  let last: Metrics | undefined;
  for (;;) {
    if (signal?.aborted) throw abortedError(signal, 'watching the metrics');
    if (ending.signal.aborted) return;
    try {
      last = await sample(last);
    } catch (error) {
      // It ended while it was looked at.
      if (await waitFor(over, { what: 'the end', timeoutMs: ENDING_MS })) return;
      throw error;
    }
    yield last;
    await sleep(intervalMs, undefined, { signal: wake, ref: false }).catch(() => {});
  }
}
