import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Machine } from '../../lib/machine/index.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import { type AgentGuest, bootAgentGuest, shell } from '../helpers/agent-guest.js';
import { asset, BOOT_TIMEOUT_MS, compileForGuest, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

let directory = '';
const at = (...names: string[]): string => join(directory, ...names);

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-shared-'));
  for (const name of ['share', 'reader', 'gone']) mkdirSync(at(name));
  writeFileSync(at('secret'), 'secret');
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

describeGuest('a guest with shared directories', () => {
  let guest: AgentGuest;
  const run = (script: string): Promise<string> => shell(guest, script);

  beforeAll(async () => {
    await createUpperDisk(at('upper.ext4'), 64);
    guest = await bootAgentGuest(at('upper.ext4'), 128, {
      sharedDirs: [
        { tag: 'share', path: at('share') },
        { tag: 'reader', path: at('reader'), readOnly: true, owner: { uid: 7, gid: 8 } },
        { tag: 'gone', path: at('gone'), cache: 'none', locks: 'host' },
      ],
    });
    await run(
      'cd /mnt && mkdir share reader gone && ' +
        'for tag in *; do mount -t virtiofs $tag $tag || exit 1; done',
    );
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await guest?.machine.close();
  });

  test('both sides see what the other writes', async () => {
    writeFileSync(at('share', 'from-host'), 'hello guest');
    expect(await run('cat /mnt/share/from-host; echo hello host > /mnt/share/from-guest')).toBe(
      'hello guest',
    );
    expect(readFileSync(at('share', 'from-guest'), 'utf8')).toBe('hello host\n');
    expect(statSync(at('share', 'from-guest')).uid).toBe(process.geteuid?.());
    const { share } = guest.machine.stats().sharedDirs;
    expect(share).toMatchObject({ readBytes: 11, writtenBytes: 11 });
    expect(share?.openFiles).toBeGreaterThan(1);
  });

  test('is a file system as POSIX has it', async () => {
    mkdirSync(at('share', 'checks'));
    // It runs from there, too: a program is mapped.
    const checks = compileForGuest('posix-checks');
    writeFileSync(at('share', 'posix-checks'), checks, { mode: 0o755 });
    expect(await run('/mnt/share/posix-checks /mnt/share/checks')).toBe('129 checks');
  });

  test('fails as POSIX has it, for each call and reason', async () => {
    for (const tag of ['share', 'gone']) mkdirSync(at(tag, 'errors'));
    mkdirSync(at('reader', 'errors', 'empty'), { recursive: true });
    writeFileSync(at('reader', 'errors', 'file'), '');
    symlinkSync('file', at('reader', 'errors', 'link'));
    writeFileSync(at('share', 'errors.bin'), compileForGuest('posix-errors'), { mode: 0o755 });
    const script = `cd /mnt/share; ./errors.bin errors
      ./errors.bin /mnt/gone/errors locks; ./errors.bin /mnt/reader/errors read-only`;
    expect(await run(script)).toBe('366 checks\n25 checks\n27 checks');
    rmSync(at('reader', 'errors'), { recursive: true });
  });

  test('a lock of the host is waited for, and holds up nobody else', async () => {
    mkdirSync(at('gone', 'checks'));
    const script = 'echo held; sleep 8';
    const holder = spawn('flock', ['-o', at('gone', 'checks', 'locked'), 'sh', '-c', script]);
    await once(holder.stdout, 'data');
    let held = true;
    holder.once('exit', () => {
      held = false;
    });
    const checks = run('/mnt/share/posix-checks /mnt/gone/checks locks');
    expect(await run('stat -c %F /mnt/gone/checks')).toBe('directory');
    expect(held).toBe(true);
    expect(await checks).toBe('10 checks');
    expect(held).toBe(false);
  });

  test('no link and no .. leads out of it', async () => {
    symlinkSync(directory, at('share', 'host-link'));
    // The guest follows links itself, in its own tree.
    const script = `mkdir -p ${directory}; echo original > ${at('own')}; cd /mnt/share
      ln -s ../secret up; ln -s ${at('secret')} absolute; ln -s ${at('own')} own
      for path in up absolute host-link/secret ../secret ../../../../${at('secret')}; do
        read -r line < $path && echo $line
      done 2>/dev/null
      cat own; echo overwritten > own; echo host-link/*`;
    expect(await run(script)).toBe('original\nhost-link/own');
    expect(readFileSync(at('secret'), 'utf8')).toBe('secret');
    expect(readlinkSync(at('share', 'own'))).toBe(at('own'));
    expect(existsSync(at('own'))).toBe(false);
  });

  test('a read-only one is not changed, also not by a guest that mounts it to write', async () => {
    writeFileSync(at('reader', 'file'), 'as it was');
    // Which tells what it could change.
    const script = `cd /mnt/reader; cat file; stat -c ' %u:%g' file
      true > file && echo truncated; true > new && echo made; rm file && echo removed; true`;
    expect(await run(`(${script}) 2>/dev/null`)).toBe('as it was 7:8');
    expect(readdirSync(at('reader'))).toEqual(['file']);
    expect(readFileSync(at('reader', 'file'), 'utf8')).toBe('as it was');
  });

  test('the machine cannot be saved, and goes on', async () => {
    const error = await rejection(guest.machine.snapshot(at('snapshot')));
    expect(error).toMatchObject({ code: 'ERR_SNAPSHOT_UNSUPPORTED' });
    expect(existsSync(at('snapshot', 'state'))).toBe(false);
    expect(await run('cat /mnt/share/from-host')).toBe('hello guest');
  });

  test('a directory that disappears is an error in the guest, and no more', async () => {
    writeFileSync(at('gone', 'file'), 'x');
    await run('cat /mnt/gone/file');
    rmSync(at('gone'), { recursive: true });
    expect(await run('cd /mnt/gone; cat file 2>&1; echo x 2>&1 > new; ls | wc -l')).toMatch(
      /No such file[\s\S]*nonexistent|No such file[\s\S]*0$/,
    );
    expect(guest.machine.state).toBe('running');
  });

  test('a machine that is closed with a request at hand gives everything back', async () => {
    await guest.machine.close();
    expect(guest.machine.state).not.toBe('running');
    expect(readdirSync('/proc/self/task').map((task) => comm(task))).not.toContain('ember-fs');
  });
});

function comm(task: string): string {
  return readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim();
}

describeGuest('directories that cannot be shared', () => {
  const create = (path: string): Promise<unknown> =>
    rejection(
      Machine.create({
        kernel: { path: asset('vmlinux') },
        vcpus: 1,
        memoryMib: 64,
        sharedDirs: [{ tag: 'share', path }],
      }),
    );

  test.each([
    ['none', 'ERR_SHARED_DIR_NOT_FOUND'],
    ['secret', 'ERR_SHARED_DIR_INVALID'],
  ])('%s', async (name, code) => {
    expect(await create(at(name))).toMatchObject({ code, context: { path: at(name) } });
  });
});
