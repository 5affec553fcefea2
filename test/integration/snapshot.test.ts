import { mkdtemp, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Machine } from '../../lib/machine/index.js';
import { createUpperDisk } from '../../lib/state/upper-disk.js';
import {
  type AgentGuest,
  bootAgentGuest,
  copySparse,
  shell,
  startShell,
  wake,
} from '../helpers/agent-guest.js';
import { BOOT_TIMEOUT_MS, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';
import { countableBesideGuests } from '../helpers/resources.js';

const MIB = 1024 * 1024;
const MEMORY_MIB = 128;
const UPPER_MIB = 64;

let directory = '';
const at = (name: string): string => join(directory, name);

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-snapshot-'));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

describeGuest('a guest with its agent', () => {
  let original: AgentGuest;
  let parent: AgentGuest;
  let savedUptime = 0;
  const open: Machine[] = [];

  const uptime = async (guest: AgentGuest): Promise<number> =>
    Number((await shell(guest, 'cat /proc/uptime')).split(' ')[0]);

  /** A clone with a disk of its own, awake. */
  async function clone(snapshot: string, name: string, hostname?: string): Promise<AgentGuest> {
    copySparse(at(`${snapshot}.ext4`), at(`${name}.ext4`));
    const machine = await Machine.restore(at(snapshot), {
      drives: [{ id: 'upper', path: at(`${name}.ext4`) }],
    });
    open.push(machine);
    return wake(machine, hostname);
  }

  beforeAll(async () => {
    await createUpperDisk(at('original.ext4'), UPPER_MIB);
    original = await bootAgentGuest(at('original.ext4'), MEMORY_MIB);
    await shell(original, 'echo before > /note; sync');
    // An exec that is under way: its clone's streams end, its own goes on.
    const running = await startShell(original.machine, 'echo up; sleep 1000');
    expect(await running.receive()).toMatchObject({ type: 'started' });

    savedUptime = await uptime(original);
    await original.machine.pause();
    const report = await original.machine.snapshot(at('base'));
    copySparse(at('original.ext4'), at('base.ext4'));
    await original.machine.resume();
    expect(report).toMatchObject({ kind: 'full' });
    expect(report.memoryBytes).toBeGreaterThan(4 * MIB);
    expect(report.memoryBytes).toBeLessThan(MEMORY_MIB * MIB);
    expect(await running.receive()).toMatchObject({ type: 'stdout' });
    running.close();
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    for (const machine of open) await machine.close();
    await original?.machine.close();
  });

  test('goes on in two clones side by side, which are no twins', async () => {
    const [one, two] = await Promise.all([
      clone('base', 'one', 'clone-one'),
      clone('base', 'two', 'clone-two'),
    ]);
    const facts =
      'cat /note; hostname; cat /proc/sys/kernel/random/uuid; ' +
      'head -c 32 /dev/urandom | od -An -tx1 | tr -d " \\n"; echo; date +%s';
    const [first, second] = await Promise.all([shell(one, facts), shell(two, facts)]);
    const [note, host, uuid, bytes, time] = first.split('\n');
    const [otherNote, otherHost, otherUuid, otherBytes, otherTime] = second.split('\n');
    expect([note, otherNote]).toEqual(['before', 'before']);
    expect([host, otherHost]).toEqual(['clone-one', 'clone-two']);
    expect(uuid).toMatch(/^[0-9a-f-]{36}$/);
    expect(uuid).not.toBe(otherUuid);
    expect(bytes).toMatch(/^[0-9a-f]{64}$/);
    expect(bytes).not.toBe(otherBytes);
    for (const clock of [time, otherTime]) {
      expect(Math.abs(Number(clock) - Date.now() / 1000)).toBeLessThan(60);
    }

    // Each has a disk and a memory of its own.
    parent = one;
    await shell(one, 'echo one > /note; echo changed > /tmp/memory; sync');
    expect(await shell(two, 'cat /note; ls /tmp')).toBe('before');
    expect(await shell(original, 'cat /note; hostname')).toBe('before\noriginal');
    expect((await one.agent.getInfo()).agentVersion).toBe(
      (await original.agent.getInfo()).agentVersion,
    );
  });

  test('goes on where its clock stood, however old the snapshot is', async () => {
    // Else it would have to make up for every second of a snapshot's age.
    const began = performance.now();
    const late = await clone('base', 'late');
    const ran = (await uptime(late)) - savedUptime;
    const slack = 3;
    expect(ran).toBeLessThan((performance.now() - began) / 1000 + slack);
    await late.machine.close();
  });

  test('goes on from a clone of a clone, also from what it changed alone', async () => {
    const { machine } = parent;
    await machine.pause();
    const diff = await machine.snapshot(at('changed'), { kind: 'diff' });
    const full = await machine.snapshot(at('whole'));
    for (const name of ['changed', 'whole']) copySparse(at('one.ext4'), at(`${name}.ext4`));
    await machine.resume();
    expect(diff.kind).toBe('diff');
    expect(full.kind).toBe('full');
    expect(diff.memoryBytes).toBeLessThan(full.memoryBytes);
    // Neither needs the snapshot that it comes from.
    await rm(at('base'), { recursive: true });
    for (const name of ['changed', 'whole']) {
      const child = await clone(name, `child-of-${name}`);
      expect(await shell(child, 'cat /note /tmp/memory; hostname')).toBe('one\nchanged\nclone-one');
      await child.machine.close();
    }
    expect(await shell(parent, 'cat /note')).toBe('one');
  });

  test('is saved while it runs, again and again, and shuts down in order', async () => {
    const counting = await startShell(
      original.machine,
      'i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo $i; done',
    );
    for (let round = 0; round < 3; round++) {
      const report = await original.machine.snapshot(at('running'));
      expect(report.pauseNs).toBeGreaterThan(0);
    }
    expect((await readdir(at('running'))).length).toBe(2);
    let output = '';
    for (;;) {
      const event = await counting.receive();
      if (event === undefined || event.type === 'exited') break;
      if (event.type === 'stdout') output += Buffer.from(event.data).toString();
    }
    counting.close();
    expect(output.trim().split('\n')).toHaveLength(500);

    copySparse(at('original.ext4'), at('running.ext4'));
    const last = await clone('running', 'last');
    await last.agent.powerOff(1000);
    expect(await last.machine.waitUntilStopped()).toMatchObject({ reason: 'poweroff' });
  });

  test('refuses what is not its snapshot', async () => {
    const code = async (path: string, overrides = {}): Promise<string> =>
      (await rejection(Machine.restore(path, overrides))).code;
    expect(await code(at('nothing'))).toBe('ERR_SNAPSHOT_NOT_FOUND');
    // The original writes to its disk.
    expect(await code(at('running'))).toBe('ERR_DRIVE_BUSY');
    await writeFile(at('small'), Buffer.alloc(4096));
    expect(await code(at('running'), { drives: [{ id: 'upper', path: at('small') }] })).toBe(
      'ERR_SNAPSHOT_MISMATCH',
    );
    expect(await code(at('running'), { drives: [{ id: 'other', path: at('small') }] })).toBe(
      'ERR_SNAPSHOT_MISMATCH',
    );
    expect(await code('relative', { drives: 7 })).toBe('ERR_INVALID_CONFIG');
    expect((await rejection(original.machine.snapshot(at('small')))).code).toBe(
      'ERR_SNAPSHOT_WRITE',
    );
    expect(original.machine.state).toBe('running');

    const drives = [{ id: 'upper', path: at('running.ext4') }];
    const memory = (await readdir(at('running'))).find((name) => name.startsWith('memory-')) ?? '';
    const { size } = await stat(at(`running/${memory}`));
    expect(size).toBe(MEMORY_MIB * MIB);
    await truncate(at(`running/${memory}`), size / 2);
    expect(await code(at('running'), { drives })).toBe('ERR_SNAPSHOT_INVALID');
  });

  test('leaves nothing behind in this process', async () => {
    copySparse(at('original.ext4'), at('whole.ext4'));
    const before = countableBesideGuests();
    for (let round = 0; round < 5; round++) {
      const machine = await Machine.restore(at('whole'), {
        drives: [{ id: 'upper', path: at('whole.ext4') }],
      });
      expect(machine.state).toBe('paused');
      if (round % 2 === 1) await machine.resume();
      await machine.close();
    }
    expect(countableBesideGuests()).toEqual(before);
  });
});
