// Runs set-up for a script that cannot go on without it.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { Failure } from './failure.mjs';
import { root } from './root.mjs';

/** @param {string[]} options of setup.mjs */
export function setUp(...options) {
  const { status } = spawnSync(process.execPath, [join(root, 'scripts/setup.mjs'), ...options], {
    stdio: 'inherit',
  });
  if (status !== 0) throw new Failure('Set-up did not finish; the cure is above.');
}
