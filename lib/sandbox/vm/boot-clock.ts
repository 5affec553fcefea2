/** Measures the steps of a boot and tells about them. */
import type { BootStage, ProgressEvent } from '../../config/sandbox.js';

export class BootClock {
  readonly stages: { stage: BootStage; durationMs: number }[] = [];
  onProgress: ((event: ProgressEvent) => void) | undefined;
  readonly #startedAt = performance.now();
  #current: { stage: BootStage; since: number } | undefined;

  get totalMs(): number {
    return performance.now() - this.#startedAt;
  }

  /** The step that runs, for an error. */
  get stage(): BootStage | undefined {
    return this.#current?.stage;
  }

  /** Ends the step that runs and begins `stage`, unless that is the one. */
  begin(stage: BootStage): void {
    if (this.#current?.stage === stage) return;
    this.end();
    this.#current = { stage, since: performance.now() };
    this.onProgress?.({ type: 'stage', stage, status: 'begin' });
  }

  /** The steps so far, the one that runs included. */
  soFar(): { stage: BootStage; durationMs: number }[] {
    if (this.#current === undefined) return [...this.stages];
    const { stage, since } = this.#current;
    return [...this.stages, { stage, durationMs: performance.now() - since }];
  }

  end(): void {
    if (this.#current === undefined) return;
    const { stage, since } = this.#current;
    const durationMs = performance.now() - since;
    this.#current = undefined;
    this.stages.push({ stage, durationMs });
    this.onProgress?.({ type: 'stage', stage, status: 'end', durationMs });
  }
}
