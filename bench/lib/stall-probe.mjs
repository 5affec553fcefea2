// Watches the event loop with a timer of 1 ms: how late it comes is how long the loop was stalled.
// A loop can be late because something blocked it, or because the host ran other threads; the
// second is in /proc/self/schedstat, and is told apart.
import { closeSync, openSync, readSync } from 'node:fs';

const PERIOD_MS = 1;
const NS_PER_MS = 1e6;

export class StallProbe {
  // For the main thread of a process, "self" is that thread.
  #file = openSync('/proc/self/schedstat', 'r');
  #buffer = Buffer.alloc(128);
  #timer;
  #last;
  #lastWait;
  #worst = { stallMs: 0, blockedMs: 0 };

  start() {
    this.#last = performance.now();
    this.#lastWait = this.#waitedMs();
    this.#timer = setInterval(() => this.#tick(), PERIOD_MS);
  }

  /** The longest stall, and the longest that was not a wait for a CPU. */
  stop() {
    clearInterval(this.#timer);
    closeSync(this.#file);
    return this.#worst;
  }

  #tick() {
    const now = performance.now();
    const wait = this.#waitedMs();
    const stall = now - this.#last - PERIOD_MS;
    const blocked = stall - (wait - this.#lastWait);
    this.#worst.stallMs = Math.max(this.#worst.stallMs, stall);
    this.#worst.blockedMs = Math.max(this.#worst.blockedMs, blocked);
    this.#last = performance.now();
    this.#lastWait = wait;
  }

  /** "run-ns wait-ns slices": how long the thread was ready to run and did not. */
  #waitedMs() {
    const length = readSync(this.#file, this.#buffer, 0, this.#buffer.length, 0);
    return Number(this.#buffer.toString('latin1', 0, length).split(' ')[1]) / NS_PER_MS;
  }
}
