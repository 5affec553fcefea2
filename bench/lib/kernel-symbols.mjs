// Where the functions of the kernel are that set-up built.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { root } from '../../scripts/lib/root.mjs';

/** Functions by address, ascending. */
export function readSymbols() {
  const hash = execFileSync(join(root, 'guest/kernel/build'), ['--print-hash'], {
    encoding: 'utf8',
  }).trim();
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  const map = readFileSync(join(cache, 'embervm/kernel', hash, 'System.map'), 'utf8');
  return map
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, kind]) => kind === 't' || kind === 'T')
    .map(([address, , name]) => ({ address: BigInt(`0x${address}`), name }));
}
