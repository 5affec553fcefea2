/** Names that are made rather than given. */
import { createHash, randomBytes } from 'node:crypto';

const MAX_HOSTNAME = 64;
const HASH_DIGITS = 8;

/** `sandbox-` and 48 random bits. */
export function generateName(): string {
  return `sandbox-${randomBytes(6).toString('hex')}`;
}

/** The name itself where the kernel takes it, else its beginning and a hash of the whole. */
export function hostnameFor(name: string): string {
  if (name.length <= MAX_HOSTNAME) return name;
  const hash = createHash('sha256').update(name).digest('hex').slice(0, HASH_DIGITS);
  return `${name.slice(0, MAX_HOSTNAME - HASH_DIGITS - 1)}-${hash}`;
}
