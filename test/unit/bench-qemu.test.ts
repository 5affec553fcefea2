import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findQemu } from '../../bench/qemu/find.mjs';
import { makeKernelWithoutFixups } from '../../bench/qemu/kernel.mjs';
import { GuestStuck, QemuMachine } from '../../bench/qemu/machine.mjs';
import { Monitor } from '../../bench/qemu/monitor.mjs';
import { Failure } from '../../scripts/lib/failure.mjs';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'embervm-test-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe('findQemu', () => {
  it('says what to install', () => {
    const look = () => findQemu(join(directory, 'no-qemu'));
    expect(look).toThrow(Failure);
    expect(look).toThrow(/was not found.*apt-get install .*qemu-system-x86/);
    try {
      look();
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_QEMU_MISSING' });
    }
  });

  it('reads the version', () => {
    const program = join(directory, 'qemu');
    writeFileSync(program, '#!/bin/sh\necho "QEMU emulator version 7.2.22 (Debian)"\n', {
      mode: 0o755,
    });
    expect(findQemu(program)).toEqual({ program, version: '7.2.22' });
  });
});

describe('makeKernelWithoutFixups', () => {
  const BASE = 0xffffffff81000000n;
  const symbols = [
    { address: BASE + 0x20n, name: 'int3_selftest' },
    { address: BASE + 0x40n, name: 'fpu__drop' },
  ];

  function image(selftest: string, drop: string): string {
    const file = Buffer.alloc(0x300);
    file.writeUInt16LE(1, 56);
    file.writeUInt32LE(1, 64);
    file.writeBigUInt64LE(0x100n, 64 + 8);
    file.writeBigUInt64LE(BASE, 64 + 16);
    file.writeBigUInt64LE(0x200n, 64 + 32);
    file.write(selftest, 0x120, 'hex');
    file.write(drop, 0x140, 'hex');
    const path = join(directory, 'vmlinux');
    writeFileSync(path, file);
    return path;
  }

  it('changes one byte of each function', () => {
    const from = image('5231c9cc90', '7401c39b65');
    const copy = join(directory, 'copy');
    makeKernelWithoutFixups(from, copy, symbols);
    const expected = readFileSync(from);
    expected[0x120] = 0xc3;
    expected[0x143] = 0x90;
    expect(readFileSync(copy).equals(expected)).toBe(true);
  });

  it('refuses a kernel that looks otherwise', () => {
    const copy = join(directory, 'copy');
    const make = (path: string, known = symbols) => makeKernelWithoutFixups(path, copy, known);
    expect(() => make(image('5231c990', '7401c39b65'))).toThrow(/int3_selftest\(\)/);
    expect(() => make(image('5231c9cc', '7401c365'))).toThrow(/fpu__drop\(\)/);
    expect(() => make(image('cc', '9b'), symbols.slice(1))).toThrow(/int3_selftest\(\)/);
  });
});

describe('QemuMachine', () => {
  const options = { kvm: 'pvm', kernel: 'k', initrd: 'i', words: ['quiet'], memoryMib: 128 };

  /** A program in place of QEMU, which says how it was called and then does as the script has it. */
  function start(script: string): QemuMachine {
    const program = join(directory, 'qemu');
    writeFileSync(program, `#!/bin/sh\necho "$@"\n${script}\n`, { mode: 0o755 });
    return new QemuMachine(program, options);
  }

  it('starts the microvm machine, sees what is printed, and ends it', async () => {
    const machine = start('echo "pid $$ here"; exec sleep 60');
    await machine.printed('-M microvm,acpi=off', 5000);
    await machine.printed(' here', 5000);
    expect(machine.residentMib()).toBeGreaterThan(0);
    await machine.close();
    await machine.close();
    expect(() => machine.residentMib()).toThrow('ENOENT');
  });

  it('tells a guest that got stuck at once', async () => {
    const machine = start('echo "KVM internal error. Suberror: 1" >&2; exec sleep 60');
    await expect(machine.printed('alive', 5000)).rejects.toThrow(GuestStuck);
    await machine.close();
  });

  it('tells an end with what was said before', async () => {
    const machine = start('echo "no such device" >&2; sleep 0.2; exit 1');
    await expect(machine.printed('alive', 5000)).rejects.toThrow(/ended before.*no such device/s);
    await machine.close();
  });
});

describe('Monitor', () => {
  /** Both ends of a connection. */
  async function connect(): Promise<{ near: Socket; far: Socket; close: () => void }> {
    const { connect: dial } = await import('node:net');
    const path = join(directory, 'monitor');
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
    const near = dial(path);
    const far = await accepted;
    return { near, far, close: () => server.close() };
  }

  it('gives answers to their commands, whatever comes between', async () => {
    const { near, far, close } = await connect();
    const monitor = new Monitor(near);
    far.write('{"QMP": {}}\n');
    const first = monitor.execute('stop');
    const second = monitor.execute('migrate', { uri: 'nowhere' });
    far.write('{"event": "STOP"}\n{"ret');
    far.write('urn": {"a": 1}}\n{"error": {"desc": "no such place"}}\n');
    await expect(first).resolves.toEqual({ a: 1 });
    await expect(second).rejects.toThrow('migrate: no such place');
    far.destroy();
    close();
  });

  it('ends what waits when QEMU ends', async () => {
    const { near, far, close } = await connect();
    const monitor = new Monitor(near);
    const waiting = monitor.execute('stop');
    far.destroy();
    await expect(waiting).rejects.toThrow('QEMU has ended in stop');
    await expect(monitor.execute('cont')).rejects.toThrow('QEMU has ended before cont');
    close();
  });
});
