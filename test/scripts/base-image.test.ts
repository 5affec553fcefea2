import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const path = (name: string): string => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const image = path('build/guest/base.erofs');
const sha256 = (file: string): string =>
  createHash('sha256').update(readFileSync(file)).digest('hex');

const describeFile = (name: string): string =>
  execFileSync('dump.erofs', [`--path=${name}`, image], { encoding: 'utf8', stdio: 'pipe' });

describe('base.erofs', () => {
  it('is a file system without faults', () => {
    execFileSync('fsck.erofs', [image], { stdio: 'pipe' });
  });

  it('is made of the same bytes each time', () => {
    const folder = mkdtempSync(join(tmpdir(), 'embervm-base-'));
    try {
      const again = join(folder, 'base.erofs');
      execFileSync(path('guest/base/build'), [again], { stdio: 'pipe' });
      expect(sha256(again)).toBe(sha256(image));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it.each([
    ['/bin/busybox', 'regular file', 0, '0755'],
    ['/etc/passwd', 'regular file', 0, '0644'],
    ['/etc/shadow', 'regular file', 0, '0600'],
    ['/root', 'directory', 0, '0700'],
    ['/home/user', 'directory', 1000, '0755'],
    ['/dev', 'directory', 0, '0755'],
    ['/proc', 'directory', 0, '0755'],
  ])('%s is a %s of %i, mode %s', (name, type, owner, mode) => {
    const text = describeFile(name);
    expect(text).toContain(type);
    expect(text).toContain(`Uid: ${owner} `);
    expect(text).toContain(`Access: ${mode}`);
  });

  it('has every applet of busybox where busybox says it belongs', () => {
    const applets = execFileSync('/bin/busybox', ['--list-full'], { encoding: 'utf8' })
      .trim()
      .split('\n')
      .filter((applet) => applet !== 'linuxrc' && applet !== 'bin/busybox');
    const tree = mkdtempSync(join(tmpdir(), 'embervm-base-'));
    try {
      execFileSync('fsck.erofs', [`--extract=${tree}`, '--overwrite', image], { stdio: 'pipe' });
      for (const applet of applets) {
        expect(readlinkSync(join(tree, applet))).toBe('/bin/busybox');
      }
      expect(applets.length).toBeGreaterThan(200);
    } finally {
      rmSync(tree, { recursive: true });
    }
  }, 60_000);
});
