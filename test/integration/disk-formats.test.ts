import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Mount, Sandbox } from '../../lib/index.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { qcow2From } from '../helpers/qcow2-image.js';
import { rejection } from '../helpers/rejection.js';

useHome();

const directory = mkdtempSync(join(tmpdir(), 'embervm-formats-'));
const at = (name: string): string => join(directory, name);
const qcow2 = { disk: at('data.qcow2'), format: 'qcow2' } as const;

afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

const inSandbox = async (mount: Mount, script: string): Promise<string> => {
  await using sandbox = await Sandbox.create(small({ mounts: { '/data': mount } }));
  const { stdout, stderr } = await sandbox.shell(script);
  // In order, so that a reader finds a file system without a journal to replay.
  await sandbox.stop();
  return (stdout + stderr).trimEnd();
};

describeGuest('a disk in a qcow2 image', () => {
  beforeAll(async () => {
    await createUpperDisk(at('data.raw'), 64);
    qcow2From(at('data.raw'), qcow2.disk);
    // The first of its kind boots and leaves a template.
    await (await Sandbox.create(small())).close();
  }, BOOT_TIMEOUT_MS);

  test('keeps what a guest writes, and what it did not sync', async () => {
    const before = statSync(qcow2.disk).size;
    const write =
      'yes embervm | head -c 1000000 > /data/large; sync; sha256sum /data/large; ' +
      'echo late > /data/late';
    const sum = await inSandbox(qcow2, write);
    expect(sum).toMatch(/^[0-9a-f]{64} {2}\/data\/large$/);
    expect(statSync(qcow2.disk).size).toBeGreaterThan(before + 1_000_000);
    const readonly = { ...qcow2, readonly: true };
    expect(await inSandbox(readonly, 'sha256sum /data/large; cat /data/late')).toBe(`${sum}\nlate`);
    expect(await inSandbox(readonly, 'touch /data/x')).toMatch(/Read-only/);
  });

  test('has one writer at a time', async () => {
    await using first = await Sandbox.create(small({ mounts: { '/data': qcow2 } }));
    const second = await rejection(Sandbox.create(small({ mounts: { '/data': qcow2 } })));
    expect(second.code).toBe('ERR_DRIVE_BUSY');
    expect((await first.shell('touch /data/x')).exitCode).toBe(0);
  });

  test('is one only where the host says so', async () => {
    const code = async (mount: Mount): Promise<unknown> =>
      (await rejection(Sandbox.create(small({ mounts: { '/data': mount } })))).code;
    // Its bytes are the disk: they hold no file system.
    expect(await code({ disk: qcow2.disk, readonly: true })).toBe('ERR_MOUNT_FAILED');
    expect(await code({ disk: at('data.raw'), format: 'qcow2' })).toBe('ERR_DRIVE_INVALID');
  });

  test('is refused with a backing file', async () => {
    const bytes = readFileSync(qcow2.disk).subarray(0, 1024 * 1024);
    bytes.writeBigUInt64BE(512n, 8);
    bytes.writeUInt32BE(11, 16);
    bytes.write('/etc/passwd', 512);
    writeFileSync(at('backed.qcow2'), bytes);
    const mounts = { '/data': { disk: at('backed.qcow2'), format: 'qcow2' as const } };
    const { code, message } = await rejection(Sandbox.create(small({ mounts })));
    expect(code).toBe('ERR_DRIVE_INVALID');
    expect(message).toMatch(/backing file/);
  });
});

describeGuest('a disk in a flat VMDK image', () => {
  const SECTOR = 512;
  const vmdk = { disk: at('data.vmdk'), format: 'vmdk' } as const;
  const describeWith = (extents: string): void => {
    const head = '# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\n';
    writeFileSync(vmdk.disk, `${head}createType="twoGbMaxExtentFlat"\n${extents}`);
  };

  beforeAll(async () => {
    await createUpperDisk(at('whole.raw'), 64);
    const bytes = readFileSync(at('whole.raw'));
    // The tables of the file system are in the first, what is written is in the second.
    const border = 1024 * 1024;
    writeFileSync(at('data-f001.vmdk'), bytes.subarray(0, border));
    writeFileSync(at('data-f002.vmdk'), bytes.subarray(border));
    const [first, second] = [border / SECTOR, (bytes.length - border) / SECTOR];
    describeWith(`RW ${first} FLAT "data-f001.vmdk" 0\nRW ${second} FLAT "data-f002.vmdk" 0\n`);
  });

  test('keeps what a guest writes, over all of its files', async () => {
    const write = 'yes embervm | head -c 1000000 > /data/large; sync; sha256sum /data/large';
    const sum = await inSandbox(vmdk, write);
    expect(sum).toMatch(/^[0-9a-f]{64} {2}\/data\/large$/);
    expect(await inSandbox({ ...vmdk, readonly: true }, 'sha256sum /data/large')).toBe(sum);
  });

  test('does not lead to files elsewhere', async () => {
    describeWith('RDONLY 1 FLAT "/etc/passwd" 0\n');
    const mounts = { '/data': { ...vmdk, readonly: true } };
    const { code, message } = await rejection(Sandbox.create(small({ mounts })));
    expect(code).toBe('ERR_DRIVE_INVALID');
    expect(message).toMatch(/beside it/);
  });
});
