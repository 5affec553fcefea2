import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { Sandbox, Snapshot } from '../../lib/index.js';
import { packageRoot } from '../../lib/native/package-root.js';
import { sweepSnapshots } from '../../lib/state/snapshots/claims.js';
import { SnapshotDraft } from '../../lib/state/snapshots/draft.js';
import { openSnapshot, readSnapshot } from '../../lib/state/snapshots/store.js';
import {
  discardTemplate,
  findTemplate,
  TemplateDraft,
} from '../../lib/state/templates/template-store.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { useKillAtStep } from '../helpers/kill-at-step.js';
import { rejection } from '../helpers/rejection.js';

const home = useHome('own');
const killer = useKillAtStep();
const snapshots = join(home, 'snapshots');
const templates = join(home, 'templates');
const fixture = (name: string): string =>
  fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
const state = `file://${join(packageRoot(), 'dist/state')}`;

const namesIn = (directory: string): string[] =>
  existsSync(directory) ? readdirSync(directory).sort() : [];
const hidden = (directory: string): string[] =>
  namesIn(directory).filter((name) => name.startsWith('.'));

describe('a process that is killed at any step', () => {
  afterEach(() => {
    rmSync(snapshots, { recursive: true, force: true });
    rmSync(templates, { recursive: true, force: true });
  });

  test('of a save leaves the snapshot before, or the new one', async () => {
    const args = (text: string): string[] => [
      fixture('save-snapshot.mjs'),
      state,
      'snapshot',
      text,
    ];
    await killer.trace(snapshots, args('before'));
    const seen = new Set<string>();
    const steps = await killer.everyStep(snapshots, args('after'), async (step) => {
      const { name, manifest, directory } = await readSnapshot('one');
      seen.add(manifest.description);
      expect([step, name]).toEqual([step, 'one']);
      expect(readFileSync(join(directory, 'upper.ext4'), 'utf8')).toBe(
        `disk ${manifest.description}`,
      );
      await Snapshot.verify('one');
      // What it left is nobody's, and hinders nobody.
      await sweepSnapshots();
      expect([step, hidden(snapshots)]).toEqual([step, []]);
      const draft = await SnapshotDraft.begin('one', { replace: true });
      await draft.abandon();
    });
    expect(steps).toBeGreaterThan(15);
    expect([...seen].sort()).toEqual(['after', 'before']);
    expect(namesIn(join(snapshots, 'one'))).toHaveLength(2);
  });

  test('of the making of a template leaves none, or a whole one', async () => {
    const args = [fixture('save-snapshot.mjs'), state, 'template', 'text'];
    const steps = await killer.everyStep(templates, args, async (step) => {
      const template = await findTemplate('key');
      if (template !== undefined) {
        expect([step, readFileSync(template.disk, 'utf8')]).toEqual([step, 'disk text']);
        await discardTemplate('key');
      }
      const draft = await TemplateDraft.begin('key');
      expect([step, draft !== undefined]).toEqual([step, true]);
      await draft?.abandon();
    });
    expect(steps).toBeGreaterThan(8);
    expect(await findTemplate('key')).toBeDefined();
    expect(namesIn(templates).filter((name) => name.startsWith('.new-'))).toEqual([]);
  });
});

describeGuest('a sandbox whose process is killed', () => {
  let origin: Sandbox | undefined;
  afterAll(async () => origin?.close());

  /** Runs until `when` holds, and is killed then. */
  async function killWhen(when: (output: string) => boolean): Promise<string> {
    const child = spawn(process.execPath, [fixture('save-sandbox.mjs')], {
      stdio: ['ignore', 'pipe', 'inherit'],
      // Templates of this checkout's sources and of what was compiled from them are the same.
      env: process.env,
    });
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += String(chunk);
    });
    const ended = once(child, 'close');
    while (child.exitCode === null && !when(output)) await sleep(1);
    child.kill('SIGKILL');
    expect((await ended)[1]).toBe('SIGKILL');
    return output;
  }

  test(
    'while it makes a template is replaced by the next, which makes it anew',
    async () => {
      const unfinished = (): string[] =>
        hidden(templates).filter((name) => name.startsWith('.new-'));
      await killWhen(() =>
        unfinished().some((name) => existsSync(join(templates, name, 'machine'))),
      );
      expect(unfinished()).toHaveLength(1);
      expect(namesIn(templates).filter((name) => !name.startsWith('.'))).toEqual([]);
      origin = await Sandbox.create(small({ name: 'origin' }));
      expect(origin.bootReport().start).toBe('cold');
      expect(unfinished()).toEqual([]);
      await using warm = await Sandbox.create(small());
      expect(warm.bootReport().start).toBe('warm');
    },
    BOOT_TIMEOUT_MS,
  );

  test('while it is saved leaves a snapshot that can be used', async () => {
    const output = await killWhen(
      (lines) => lines.includes('0\n') && existsSync(join(snapshots, '.new-kept/machine')),
    );
    const { description } = await Snapshot.get('kept');
    // The last one that it told of, or the next.
    const told = Number(output.trim().split('\n').at(-1));
    expect([told, told + 1]).toContain(Number(description));
    await Snapshot.verify('kept');
    await using copy = await Sandbox.create({ snapshot: 'kept' });
    expect((await copy.exec('cat', ['/state'])).stdout).toBe('kept\n');
    await sweepSnapshots();
    expect(hidden(snapshots)).toEqual([]);
    await copy.snapshot('kept', { replace: true });
    expect(namesIn(join(snapshots, 'kept'))).toHaveLength(2);
    await Snapshot.remove('kept');
  });

  test.skipIf(process.getuid?.() !== 0)(
    'a disk that is full leaves the snapshot before, and the sandbox as it was',
    async () => {
      const sandbox = origin as Sandbox;
      const archive = join(home, 'small.tar');
      await sandbox.snapshot('measured');
      const { directory } = await readSnapshot('measured');
      const kib = Number(execFileSync('du', ['-sk', directory]).toString().split('\t')[0]);
      await Snapshot.export('measured', archive, { compress: false });
      await Snapshot.remove('measured');
      // Room for one and a half: where files cannot be linked to a template, a snapshot is whole.
      mkdirSync(snapshots, { recursive: true });
      const size = `size=${Math.ceil(kib * 1.5)}k`;
      execFileSync('mount', ['-t', 'tmpfs', '-o', size, 'none', snapshots]);
      try {
        await sandbox.exec('sh', ['-c', 'echo first > /state']);
        await sandbox.snapshot('good');
        await sandbox.exec('sh', ['-c', 'echo second > /state']);
        const full = { code: 'ERR_SNAPSHOT_WRITE', errno: 'ENOSPC' };
        for (const more of [
          () => sandbox.snapshot('good', { replace: true }),
          () => sandbox.snapshot('another'),
          () => Snapshot.import(archive, { name: 'another' }),
          () => Snapshot.import(archive, { name: 'good', replace: true }),
        ]) {
          expect(await rejection(more())).toMatchObject(full);
          expect(namesIn(snapshots)).toEqual(['good']);
        }
        expect(sandbox.status).toBe('running');
        expect((await sandbox.exec('cat', ['/state'])).stdout).toBe('second\n');
        await Snapshot.verify('good');
        await using copy = await Sandbox.create({ snapshot: 'good' });
        expect((await copy.exec('cat', ['/state'])).stdout).toBe('first\n');
        expect(
          await rejection(Snapshot.export('good', join(snapshots, '.full'), { compress: false })),
        ).toMatchObject(full);
        expect(namesIn(snapshots)).toEqual(['good']);
      } finally {
        execFileSync('umount', [snapshots]);
      }
    },
  );

  test('a snapshot that lacks its disk, or has another, is not used', async () => {
    await (origin as Sandbox).snapshot('odd');
    const opened = await openSnapshot('odd');
    const { directory } = await readSnapshot('odd');
    const disk = join(directory, 'upper.ext4');
    const refused = async (): Promise<unknown> =>
      rejection(Sandbox.create({ snapshot: 'odd', name: 'copy' }));
    const told = { code: 'ERR_SNAPSHOT_INVALID', context: { file: 'upper.ext4' } };
    rmSync(disk);
    expect(await refused()).toMatchObject(told);
    execFileSync('truncate', ['-s', '64M', disk]);
    expect(await refused()).toMatchObject(told);
    await opened.release();
    expect((await Sandbox.list()).sandboxes.map(({ name }) => name)).toEqual(['origin']);
    await Snapshot.remove('odd');
  });
});
