// Watches the event loop with a timer of 1 ms: how late it comes is how long the loop was stalled.
// A loop can be late because something held it up, or because its thread had no core: the host ran
// other threads, or ran other machines and this one stood still, which nothing here is told of. What
// the thread itself did meanwhile is its CPU time in /proc/self/schedstat, and is told apart.
import { closeSync, openSync, readSync } from 'node:fs';

const PERIOD_MS = 1;
const NS_PER_MS = 1e6;

export class StallProbe {
  // For the main thread of a process, "self" is that thread.
  #file = openSync('/proc/self/schedstat', 'r');
  #buffer = Buffer.alloc(128);
  #timer;
  #last;
  #lastRan;
  #worst = { stallMs: 0, busyMs: 0 };

  start() {
    this.#last = performance.now();
    this.#lastRan = this.#ranMs();
    this.#timer = setInterval(() => this.#tick(), PERIOD_MS);
  }

  /** The longest stall, and the most CPU time that the thread took between two ticks. */
  stop() {
    clearInterval(this.#timer);
    closeSync(this.#file);
    return this.#worst;
  }

  #tick() {
    const now = performance.now();
    const ran = this.#ranMs();
    const stall = now - this.#last - PERIOD_MS;
    this.#worst.stallMs = Math.max(this.#worst.stallMs, stall);
    this.#worst.busyMs = Math.max(this.#worst.busyMs, ran - this.#lastRan);
    this.#last = performance.now();
    this.#lastRan = this.#ranMs();
  }

  /** The first of "run-ns wait-ns slices". */
  #ranMs() {
    const length = readSync(this.#file, this.#buffer, 0, this.#buffer.length, 0);
    return Number(this.#buffer.toString('latin1', 0, length).split(' ')[0]) / NS_PER_MS;
  }
}
