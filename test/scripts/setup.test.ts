import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Failure } from '../../scripts/lib/failure.mjs';
import { Progress } from '../../scripts/lib/progress.mjs';
import { logPath, runLogged } from '../../scripts/lib/run.mjs';
import { hashInputs, listFiles } from '../../scripts/lib/stamp.mjs';
import { steps } from '../../scripts/setup/steps.mjs';

const LOG = 'test-setup';
afterEach(() => rmSync(logPath(LOG), { force: true }));

describe('runLogged', () => {
  it('gives back the last line of stdout and reports every line', async () => {
    const lines: string[] = [];
    const last = await runLogged(LOG, ['sh', '-c', 'echo one; echo two >&2; printf three'], {
      onLine: (line: string) => lines.push(line),
    });
    expect(last).toBe('three');
    expect(lines.sort()).toEqual(['one', 'three', 'two']);
    expect(readFileSync(logPath(LOG), 'utf8')).toContain('two\n');
  });

  it('fails with the tail of the log and the cure', async () => {
    const failing = runLogged(LOG, ['sh', '-c', 'echo why it broke; exit 3'], {
      cure: 'Do this.',
    });
    await expect(failing).rejects.toThrow(Failure);
    await expect(failing).rejects.toThrow(/why it broke.*exit status 3.*Do this\./s);
  });

  it('says so when the program does not exist', async () => {
    await expect(runLogged(LOG, ['no-such-program'])).rejects.toThrow(/ENOENT/);
  });
});

describe('stamps', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'embervm-stamp-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it('change with a file, with its name and with a fact, and with nothing else', () => {
    // Inputs are relative to the checkout, so the way out of it is part of the name.
    const root = fileURLToPath(new URL('../..', import.meta.url));
    const input = `${'../'.repeat(root.split('/').length - 2)}${folder}`;
    writeFileSync(join(folder, 'a'), '1');
    const first = hashInputs([input]);
    expect(hashInputs([input])).toBe(first);
    expect(hashInputs([input], { facts: ['g++ 13'] })).not.toBe(first);
    writeFileSync(join(folder, 'a'), '2');
    const second = hashInputs([input]);
    expect(second).not.toBe(first);
    writeFileSync(join(folder, 'b'), '');
    expect(hashInputs([input])).not.toBe(second);
  });

  it('list files below a folder in order, and nothing of a path that is not there', () => {
    writeFileSync(join(folder, 'b'), '');
    writeFileSync(join(folder, 'a'), '');
    expect(listFiles(folder)).toEqual([join(folder, 'a'), join(folder, 'b')]);
    expect(listFiles(join(folder, 'gone'))).toEqual([]);
  });
});

describe('Progress', () => {
  it('writes a line at the start and one with the time at the end, off a terminal', () => {
    let text = '';
    const out = { isTTY: false, write: (part: string) => (text += part) };
    const progress = new Progress(12, out);
    progress.start('first step');
    progress.working();
    progress.end();
    progress.start('second step');
    progress.end('up to date');
    expect(text).toMatch(
      /^\[ 1\/12\] first step +…\n\[ 1\/12\] first step +done in \d+\.\d s\n\[ 2\/12\] second step +up to date\n$/,
    );
  });
});

describe('the table of steps', () => {
  it('says of each step how it is known to be up to date', () => {
    for (const step of steps) {
      const stamped = step.inputs !== undefined && step.outputs !== undefined;
      expect([step.name, stamped || step.upToDate !== undefined]).toEqual([step.name, true]);
    }
  });
});
