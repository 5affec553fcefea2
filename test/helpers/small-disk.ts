/** A directory with so little room: a tmpfs, which takes root to mount. */
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';

export const canMount: boolean = process.getuid?.() === 0;

/** Runs `body` while `path` is a file system of `kib` KiB and `files` files. */
export async function withSmallDisk(
  path: string,
  { kib, files = 10_000 }: { kib: number; files?: number },
  body: () => Promise<void>,
): Promise<void> {
  mkdirSync(path, { recursive: true });
  const options = `size=${kib}k,nr_inodes=${files}`;
  execFileSync('mount', ['-t', 'tmpfs', '-o', options, 'none', path]);
  try {
    await body();
  } finally {
    execFileSync('umount', [path]);
  }
}
