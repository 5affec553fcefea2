/** Tells how far a pull is, without more events than anybody can show. */
import type { ImageProgressEvent } from '../../config/image.js';

export type OnImageProgress = (event: ImageProgressEvent) => void;

const INTERVAL_MS = 50;

/** Of one layer. */
export class LayerProgress {
  readonly #report: OnImageProgress;
  readonly #digest: string;
  readonly #total: number;
  #lastAt = 0;

  constructor(report: OnImageProgress, digest: string, total: number) {
    this.#report = report;
    this.#digest = digest;
    this.#total = total;
  }

  started(): void {
    this.#tell('started', 0, false);
  }

  received(bytes: number): void {
    const now = performance.now();
    if (now - this.#lastAt < INTERVAL_MS) return;
    this.#lastAt = now;
    this.#tell('progress', bytes, false);
  }

  /** `cached`: nothing had to be fetched. */
  done(cached: boolean): void {
    this.#tell('done', this.#total, cached);
  }

  #tell(status: 'started' | 'progress' | 'done', receivedBytes: number, cached: boolean): void {
    const totalBytes = this.#total;
    this.#report({
      type: 'layer',
      digest: this.#digest,
      status,
      receivedBytes,
      totalBytes,
      ...(status === 'done' ? { cached } : {}),
    });
  }
}
