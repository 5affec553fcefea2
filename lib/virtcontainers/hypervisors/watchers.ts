/** Who wants to know that a VM has died, and whether it has. */
import type { EmbervmError } from '../../errors.js';

export class Watchers {
  readonly #listeners = new Set<(failure: EmbervmError) => void>();
  #failure: EmbervmError | undefined;

  get failure(): EmbervmError | undefined {
    return this.#failure;
  }

  watch(onFailure: (failure: EmbervmError) => void): () => void {
    if (this.#failure !== undefined) {
      onFailure(this.#failure);
      return () => {};
    }
    this.#listeners.add(onFailure);
    return () => this.#listeners.delete(onFailure);
  }

  /** Once; the later ones are consequences. */
  fail(failure: EmbervmError): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    for (const listener of this.#listeners) listener(failure);
    this.#listeners.clear();
  }

  /** For a VM that starts again. */
  reset(): void {
    this.#failure = undefined;
  }
}
