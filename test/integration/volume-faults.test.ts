import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Volume } from '../../lib/index.js';
import { useKillAtStep } from '../helpers/kill-at-step.js';

const entry = fileURLToPath(new URL('../../dist/index.js', import.meta.url));
const fixture = fileURLToPath(new URL('../fixtures/volume.mjs', import.meta.url));

describe('a process that is killed at any step', () => {
  const killer = useKillAtStep();
  const home = mkdtempSync(join(tmpdir(), 'embervm-volumes-'));
  const volumes = join(home, 'volumes');
  const inherited = process.env.EMBERVM_HOME;

  beforeAll(() => {
    process.env.EMBERVM_HOME = home;
    mkdirSync(volumes);
  });

  afterAll(() => {
    if (inherited === undefined) delete process.env.EMBERVM_HOME;
    else process.env.EMBERVM_HOME = inherited;
    rmSync(home, { recursive: true, force: true });
  });

  /** Whether the volume is there: whole, then. Nothing is left that would hinder others. */
  async function look(step: number): Promise<boolean> {
    const [found, ...more] = await Volume.list();
    expect([step, more]).toEqual([step, []]);
    if (found !== undefined) {
      expect([step, found.name, found.quotaMib]).toEqual([step, 'one', 7]);
      await found.files.write('/file', 'x');
    }
    await Volume.create('other');
    await Volume.remove('other');
    expect([step, readdirSync(volumes)]).toEqual([step, found === undefined ? [] : ['one']]);
    return found !== undefined;
  }

  test('of the making of a volume leaves none, or a whole one', async () => {
    const seen = new Set<boolean>();
    const steps = await killer.everyStep(volumes, [fixture, entry, 'create'], async (step) => {
      const there = await look(step);
      seen.add(there);
      if (there) await Volume.remove('one');
    });
    expect(steps).toBeGreaterThan(5);
    expect(await look(0)).toBe(true);
    expect([...seen].sort()).toEqual([false, true]);
  });

  test('of the removal of a volume leaves all of it, or nothing', async () => {
    const seen = new Set<boolean>();
    const steps = await killer.everyStep(volumes, [fixture, entry, 'remove'], async (step) => {
      const there = await look(step);
      seen.add(there);
      if (!there) await (await Volume.create('one', { quotaMib: 7 })).files.write('/file', 'x');
    });
    expect(steps).toBeGreaterThan(3);
    expect(await look(0)).toBe(false);
    expect([...seen].sort()).toEqual([false, true]);
  });
});
