import { execFileSync } from 'node:child_process';
import { readdirSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Sandbox } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { countable, resources } from '../helpers/resources.js';

const MIB = 1024 * 1024;
const home = useHome('own');

/** Directories of the templates there are. */
const templates = (): string[] =>
  readdirSync(join(home, 'templates'))
    .filter((name) => !name.startsWith('.'))
    .map((name) => join(home, 'templates', name));

const stagesOf = (sandbox: Sandbox): string[] =>
  sandbox.bootReport().stages.map(({ stage }) => stage);

describeGuest('a sandbox that starts warm', () => {
  test(
    'goes on from what the first of its kind left',
    async () => {
      const first = await Sandbox.create(small({ scripts: { hello: '#!/bin/sh\necho hello' } }));
      try {
        expect(first.bootReport().start).toBe('cold');
        expect(stagesOf(first).slice(3)).toEqual([
          'machine',
          'kernel',
          'template',
          'root',
          'template',
        ]);
        expect(templates()).toHaveLength(2);
        await first.shell('echo first > /note');
        expect((await first.exec('hello')).stdout).toBe('hello\n');

        const startedAt = performance.now();
        await using second = await Sandbox.create(
          small({ hostname: 'second', scripts: { hello: '#!/bin/sh\necho ho' } }),
        );
        const warmMs = performance.now() - startedAt;
        const report = second.bootReport();
        expect(report).toMatchObject({
          start: 'warm',
          guest: {
            kernelRelease: first.bootReport().guest.kernelRelease,
            agentStartedMs: null,
            agentDialledMs: null,
          },
        });
        expect(stagesOf(second)).toEqual(['validate', 'assets', 'disk', 'restore', 'agent']);
        expect(warmMs).toBeLessThan(first.bootReport().totalMs / 4);

        // Nothing of the first is in the second.
        const facts = await second.shell('hostname; ls /note; hello; date +%s');
        const [hostname, hello, date] = facts.stdout.trim().split('\n');
        expect([hostname, hello]).toEqual(['second', 'ho']);
        expect(Math.abs(Number(date) - Date.now() / 1000)).toBeLessThan(60);
        expect(facts.stderr).toContain('/note');
        expect((await first.exec('cat', ['/note'])).stdout).toBe('first\n');
      } finally {
        await first.close();
      }
    },
    BOOT_TIMEOUT_MS,
  );

  test('is no twin of another', async () => {
    await using one = await Sandbox.create(small());
    await using two = await Sandbox.create(small());
    const facts = 'hostname; cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -tx1';
    const [first, second] = await Promise.all([one.shell(facts), two.shell(facts)]);
    const lines = first.stdout.split('\n');
    expect(lines).toHaveLength(5);
    for (const line of second.stdout.split('\n').slice(0, 3)) expect(lines).not.toContain(line);
    // The disk is there to stay.
    await one.shell('echo kept > /kept && sync');
    expect((await one.exec('cat', ['/kept'])).stdout).toBe('kept\n');
    expect((await two.exec('ls', ['/kept'])).success).toBe(false);
  });

  test(
    'can be started again with its disk',
    async () => {
      const sandbox = await Sandbox.create(small({ name: 'kept' }));
      await sandbox.shell('echo kept > /note');
      await sandbox.stop();
      const disk = join(home, 'sandboxes/kept/upper.ext4');
      for (const note of ['once', 'twice']) {
        const again = await Sandbox.start('kept');
        expect(again.bootReport().start).toBe('warm');
        expect(stagesOf(again).slice(-3)).toEqual(['restore', 'agent', 'root']);
        await again.shell(`echo ${note} >> /note; head -c 65536 /dev/zero > /${note}`);
        const { stdout } = await again.shell('cat /note; hostname; wc -c /once');
        expect(stdout).toContain('kept\nonce\n');
        expect(stdout).toContain('kept\n65536 /once\n');
        await again.stop();
        // What the guest knew of another disk before has not got into this one.
        execFileSync('e2fsck', ['-fn', disk], { stdio: 'pipe' });
      }
    },
    BOOT_TIMEOUT_MS,
  );

  test('leaves nothing behind in this process, nor on the disk', async () => {
    const cycle = async (): Promise<void> => {
      const sandbox = await Sandbox.create(small());
      expect(sandbox.bootReport().start).toBe('warm');
      await sandbox.kill();
    };
    for (let warmUp = 0; warmUp < 3; warmUp++) await cycle();
    const before = { ...countable(), files: readdirSync(join(home, 'sandboxes')) };
    const { rssBytes } = resources();
    for (let round = 0; round < 20; round++) await cycle();
    expect({ ...countable(), files: readdirSync(join(home, 'sandboxes')) }).toEqual(before);
    expect(resources().rssBytes - rssBytes).toBeLessThan(16 * MIB);
  });

  test(
    'boots where the template is damaged, and replaces it',
    async () => {
      const [directory = ''] = templates().filter((path) => path.endsWith('-ready'));
      const memory = readdirSync(join(directory, 'machine')).find((name) =>
        name.startsWith('memory-'),
      );
      const before = statSync(directory).ino;
      truncateSync(join(directory, 'machine', memory ?? ''), MIB);
      const sandbox = await Sandbox.create(small());
      try {
        expect(sandbox.bootReport().start).toBe('cold');
        const [entry] = await sandbox.logs({ sources: ['system'] });
        expect(entry?.text ?? '').toMatch(/^not started from the template/);
        expect((await sandbox.exec('true')).exitCode).toBe(0);
      } finally {
        await sandbox.close();
      }
      expect(templates()).toHaveLength(2);
      expect(statSync(directory).ino).not.toBe(before);
      await using next = await Sandbox.create(small());
      expect(next.bootReport().start).toBe('warm');
    },
    BOOT_TIMEOUT_MS,
  );
});
