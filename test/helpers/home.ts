/** A home of its own for each test. */
import { join } from 'node:path';
import { afterEach, beforeEach } from 'vitest';
import { useDirectory } from './directory.js';

/** Returns where the sandboxes of the test are. */
export function useFreshHome(): () => string {
  const directory = useDirectory();
  const inherited = process.env.EMBERVM_HOME;
  let home = '';
  beforeEach(async () => {
    home = join(await directory(), 'home');
    process.env.EMBERVM_HOME = home;
  });
  afterEach(() => {
    if (inherited === undefined) delete process.env.EMBERVM_HOME;
    else process.env.EMBERVM_HOME = inherited;
  });
  return () => join(home, 'sandboxes');
}
