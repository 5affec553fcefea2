/** Top of the package: two levels above this module, both in `lib/` and in `dist/`. */
import { fileURLToPath } from 'node:url';

export function packageRoot(): string {
  return fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
}
