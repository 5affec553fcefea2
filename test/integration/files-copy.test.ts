import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FileError } from '../../lib/errors.js';
import { Sandbox, type SandboxFiles } from '../../lib/index.js';
import { useDirectory } from '../helpers/directory.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

useHome();
const makeDirectory = useDirectory();
const MIB = 1024 * 1024;
let sandbox: Sandbox;
let files: SandboxFiles;

const sh = async (script: string): Promise<string> => {
  const { stdout, stderr, exitCode } = await sandbox.shell(script);
  if (exitCode !== 0) throw new Error(`${script}: exit code ${exitCode}: ${stderr}`);
  return stdout.trim();
};

/** A tree with a bit of everything that can be copied. */
async function makeTree(): Promise<string> {
  const top = join(await makeDirectory(), 'tree');
  mkdirSync(join(top, 'sub/empty'), { recursive: true });
  writeFileSync(join(top, 'data'), randomBytes(150_000));
  writeFileSync(join(top, 'sub/script'), '#!/bin/sh\n', { mode: 0o755 });
  chmodSync(join(top, 'sub/script'), 0o4751);
  writeFileSync(join(top, 'sub/none'), '');
  linkSync(join(top, 'sub/script'), join(top, 'hard'));
  symlinkSync('../data', join(top, 'sub/link'));
  symlinkSync('/nowhere/at/all', join(top, 'dangling'));
  writeFileSync(Buffer.concat([Buffer.from(`${top}/`), Buffer.from([0xe9])]), 'latin1 name');
  for (const name of ['data', 'sub/script', 'sub']) {
    utimesSync(join(top, name), 1_000_000_000, 1_234_567_890.5);
  }
  chmodSync(join(top, 'sub'), 0o750);
  return top;
}

describeGuest('trees between host and guest', () => {
  beforeAll(async () => {
    sandbox = await Sandbox.create(small({ name: 'files-copy' }));
    files = sandbox.files;
    await files.mkdir('/t');
    // Far fewer instructions of an emulated kernel than the writable layer takes.
    await sh('mount -t tmpfs none /t');
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await sandbox?.close();
  });

  test('go there and back unchanged', async () => {
    const top = await makeTree();
    const there = await files.copyIn(top, '/t/tree');
    expect(there).toMatchObject({ files: 5, directories: 3, symlinks: 2, changed: [] });
    expect(
      await sh(
        'cd /t/tree && stat -c %a:%Y sub/script sub && stat -c %h:%u hard && readlink sub/link',
      ),
    ).toBe('4751:1234567890\n750:1234567890\n1:0\n../data');
    const back = join(await makeDirectory(), 'back');
    const result = await files.copyOut('/t/tree', back);
    expect(result).toEqual({ ...there, bytes: there.bytes });
    expect(Buffer.compare(readFileSync(join(back, 'data')), readFileSync(join(top, 'data')))).toBe(
      0,
    );
    expect(readlinkSync(join(back, 'dangling'))).toBe('/nowhere/at/all');
    // The rights of root are for the guest alone.
    expect(lstatSync(join(back, 'sub/script')).mode & 0o7777).toBe(0o751);
    expect(lstatSync(join(back, 'sub')).mode & 0o7777).toBe(0o750);
    for (const name of ['data', 'sub/script', 'sub']) {
      expect(lstatSync(join(back, name)).mtimeMs).toBeCloseTo(1_234_567_890_500, -1);
    }
    expect(readdirSync(back, { encoding: 'buffer' })).toContainEqual(Buffer.from([0xe9]));
    expect(readdirSync(join(back, 'sub')).sort()).toEqual(['empty', 'link', 'none', 'script']);
  });

  test('add to what is there, and replace what is in the way', async () => {
    const top = await makeTree();
    await sh(
      'mkdir -p /t/merge/sub && chmod 711 /t/merge && echo keep > /t/merge/own && ' +
        'echo other > /t/other && ln -s /t/other /t/merge/data',
    );
    await files.copyIn(top, '/t/merge', { uid: 1000, gid: 1001 });
    expect(await sh('cat /t/merge/own /t/other && stat -c %a:%u /t/merge')).toBe(
      'keep\nother\n711:0',
    );
    expect(await sh('stat -c %F:%u:%g /t/merge/data')).toBe('regular file:1000:1001');
    const error = (await rejection(files.copyIn(top, '/t/merge/own'))) as FileError;
    expect([error.code, error.path]).toEqual(['ERR_FILE_NOT_DIRECTORY', '/t/merge/own']);
    expect((await rejection(files.copyIn(join(top, 'data'), '/t/merge'))).code).toBe(
      'ERR_FILE_IS_DIRECTORY',
    );
    const missing = (await rejection(files.copyIn(top, '/t/no/where'))) as FileError;
    expect([missing.code, missing.path]).toEqual(['ERR_FILE_NOT_FOUND', '/t/no/where']);
  });

  test('single files, and what is none', async () => {
    const top = await makeTree();
    await files.copyIn(join(top, 'data'), '/t/single');
    expect((await files.stat('/t/single')).size).toBe(150_000);
    const target = join(await makeDirectory(), 'single');
    writeFileSync(target, 'old');
    const { files: count, bytes } = await files.copyOut('/t/single', target);
    expect([count, bytes, lstatSync(target).size]).toEqual([1, 150_000, 150_000]);
    const none = (await rejection(files.copyIn(join(top, 'none'), '/t/x'))) as FileError;
    expect([none.code, none.path]).toEqual(['ERR_FILE_NOT_FOUND', join(top, 'none')]);
    expect((await rejection(files.copyOut('/t/none', target))).code).toBe('ERR_FILE_NOT_FOUND');
    expect(lstatSync(target).size).toBe(150_000);
    const into = rejection(files.copyOut('/t/single', join(target, 'x')));
    expect((await into).code).toBe('ERR_FILE_NOT_DIRECTORY');
  });

  test('refuse devices, sockets and pipes, on either side', async () => {
    const top = await makeDirectory();
    const server = createServer();
    server.listen(join(top, 'socket'));
    await once(server, 'listening');
    const socket = (await rejection(files.copyIn(top, '/t/special'))) as FileError;
    expect([socket.code, socket.path]).toEqual(['ERR_FILE_SPECIAL', join(top, 'socket')]);
    server.close();
    execFileSync('mkfifo', [join(top, 'fifo')]);
    expect((await rejection(files.copyIn(join(top, 'fifo'), '/t/x'))).code).toBe(
      'ERR_FILE_SPECIAL',
    );
    expect((await rejection(files.copyIn('/dev/zero', '/t/x'))).code).toBe('ERR_FILE_SPECIAL');
    await sh('mkdir -p /t/dev/a && mknod /t/dev/a/n b 7 0 && mkfifo /t/fifo');
    const device = (await rejection(files.copyOut('/t/dev', join(top, 'out')))) as FileError;
    expect([device.code, device.path]).toEqual(['ERR_FILE_SPECIAL', '/t/dev/a/n']);
    expect((await rejection(files.copyOut('/t/fifo', join(top, 'x')))).code).toBe(
      'ERR_FILE_SPECIAL',
    );
  });

  test('notice a file that changes meanwhile', async () => {
    const directory = await makeDirectory();
    const log = join(directory, 'log');
    writeFileSync(log, Buffer.alloc(2 * MIB));
    const copying = files.copyIn(directory, '/t/changing');
    const timer = setInterval(() => appendFileSync(log, 'more'), 5);
    const result = await copying.finally(() => clearInterval(timer));
    expect(result.changed).toEqual([log]);
    // What it had when it was opened, and not what it grew to.
    expect((await files.stat('/t/changing/log')).size).toBe(result.bytes);
    const writer = sandbox.shell('cd /t/changing; while :; do echo more >> log; done');
    const out = await files.copyOut('/t/changing', join(directory, 'out'));
    await writer.kill();
    expect(out.changed).toEqual(['/t/changing/log']);
  });

  test('keep holes as holes', async () => {
    await sh('dd if=/dev/zero of=/t/sparse bs=1 count=1 seek=8G 2>/dev/null');
    const target = join(await makeDirectory(), 'sparse');
    const { bytes } = await files.copyOut('/t/sparse', target);
    const { size, blocks } = lstatSync(target);
    expect([bytes, size]).toEqual([8 * 1024 * MIB + 1, 8 * 1024 * MIB + 1]);
    expect(blocks * 512).toBeLessThan(MIB);
    expect((await rejection(files.copyOut('/t/sparse', target, { maxBytes: MIB }))).code).toBe(
      'ERR_FILE_LIMIT',
    );
  });

  test('fail where the guest has no space, and end with their signal', async () => {
    const top = await makeTree();
    await sh('mkdir -p /t/full && mount -t tmpfs -o size=64k none /t/full');
    const full = (await rejection(files.copyIn(top, '/t/full/tree'))) as FileError;
    expect([full.code, full.path]).toEqual(['ERR_FILE_NO_SPACE', '/t/full/tree/data']);
    await sh('umount /t/full');
    const target = join(await makeDirectory(), 'out');
    const controller = new AbortController();
    await files.write('/t/big', Buffer.alloc(3 * MIB, 1));
    const copying = files.copyOut('/t/big', target, { signal: controller.signal });
    setTimeout(() => controller.abort(), 20);
    expect((await rejection(copying)).code).toBe('ERR_ABORTED');
    expect(readdirSync(join(target, '..'))).toEqual([]);
  });
});
