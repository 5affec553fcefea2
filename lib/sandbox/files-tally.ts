/** What a copy has done so far. */
import type { CopyResult } from './files-types.js';

const MAX_CHANGED = 100;

export class CopyTally {
  files = 0;
  directories = 0;
  symlinks = 0;
  bytes = 0;
  readonly #changed: string[] = [];

  get entries(): number {
    return this.files + this.directories + this.symlinks;
  }

  noteChanged(path: string): void {
    if (this.#changed.length < MAX_CHANGED) this.#changed.push(path);
  }

  result(): CopyResult {
    const { files, directories, symlinks, bytes } = this;
    return { files, directories, symlinks, bytes, changed: [...this.#changed] };
  }
}
