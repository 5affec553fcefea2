/** A timer that can be set again, does not hold up the end of the process, and may be none. */
export class Alarm {
  readonly #afterMs: number | undefined;
  readonly #ring: () => void;
  #timer: NodeJS.Timeout | undefined;

  /** Without `afterMs` it never rings. */
  constructor(afterMs: number | undefined, ring: () => void) {
    this.#afterMs = afterMs;
    this.#ring = ring;
  }

  /** From now, also where it was set before. */
  set(): void {
    this.clear();
    if (this.#afterMs === undefined) return;
    this.#timer = setTimeout(this.#ring, this.#afterMs).unref();
  }

  clear(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
