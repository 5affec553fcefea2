/** A template depends on files only, not on the code that made it, which may have changed. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../lib/native/package-root.js';

export function setup(): void {
  rmSync(join(packageRoot(), 'build/test/templates'), { recursive: true, force: true });
}
