// The lock file names versions and hashes only: an address would tie every user to one registry.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './lib/root.mjs';

const isOurs = ({ cpu, libc }) => cpu?.includes('x64') && (libc?.includes('glibc') ?? true);
const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
for (const [path, entry] of Object.entries(packages)) {
  if (entry.resolved !== undefined) {
    console.error(
      `package-lock.json: ${path} names an address. Run: rm package-lock.json && npm i`,
    );
    process.exitCode = 1;
  }
  // What only another platform installs may be unknown to the registry that made the file.
  const foreign = entry.optional && !(entry.os?.includes('linux') && isOurs(entry));
  if (path !== '' && entry.integrity === undefined && !foreign) {
    console.error(`package-lock.json: ${path} has no integrity hash.`);
    process.exitCode = 1;
  }
}
