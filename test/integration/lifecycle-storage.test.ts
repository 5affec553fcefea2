import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { describe, expect, test } from 'vitest';
import { packageRoot } from '../../lib/native/package-root.js';
import { FileStorage } from '../../lib/state/storage/file-storage.js';
import { LevelStorage } from '../../lib/state/storage/level-storage.js';
import type { JsonValue, Storage } from '../../lib/state/storage/storage.js';
import { useDirectory } from '../helpers/directory.js';
import { useKillAtStep } from '../helpers/kill-at-step.js';
import { rejection } from '../helpers/rejection.js';

const makeDirectory = useDirectory();
const killer = useKillAtStep();
const fixture = fileURLToPath(new URL('../fixtures/storage.mjs', import.meta.url));

interface Kind {
  name: string;
  module: string;
  open(directory: string): Storage;
}

const kinds: Kind[] = [
  { name: 'FileStorage', module: 'file-storage', open: (path) => new FileStorage(path) },
  { name: 'LevelStorage', module: 'level-storage', open: (path) => new LevelStorage(path) },
];

const awkward: JsonValue[] = [
  null,
  true,
  0,
  -1.5,
  '',
  'ü\u0000\u2028"\\',
  [],
  {},
  { a: [{ b: null }], 'a key': 'x'.repeat(100_000) },
];

describe.each(kinds)('$name', ({ name, module, open }) => {
  const entry = pathToFileURL(join(packageRoot(), `dist/state/storage/${module}.js`)).href;
  const args = (directory: string, ...call: string[]): string[] => [
    fixture,
    entry,
    name,
    directory,
    ...call,
  ];

  test('keeps what JSON can say', async () => {
    const storage = open(join(await makeDirectory(), 'not', 'yet', 'there'));
    for (const value of awkward) {
      await storage.save('some/key', value);
      expect(await storage.load('some/key')).toEqual(value);
    }
  });

  test('has nothing where nothing was saved', async () => {
    const storage = open(join(await makeDirectory(), 'new'));
    expect(await storage.load('some/key')).toBeUndefined();
    expect(await storage.list('some')).toEqual([]);
    await storage.delete('some/key');
  });

  test('replaces, deletes, and lists what is below a prefix in order', async () => {
    const storage = open(await makeDirectory());
    const keys = ['s/b/config', 's/B.x/config', 's/a/state', 's/a/config', 's0/a', 't', 's'];
    for (const key of keys) await storage.save(key, { key });
    await storage.save('s/a/config', 'again');
    expect(await storage.list('s')).toEqual([
      's/B.x/config',
      's/a/config',
      's/a/state',
      's/b/config',
    ]);
    expect(await storage.list('s/a')).toEqual(['s/a/config', 's/a/state']);
    expect(await storage.load('s/a/config')).toBe('again');
    await storage.delete('s/a/config');
    await storage.delete('s/a/config');
    expect(await storage.load('s/a/config')).toBeUndefined();
    expect(await storage.list('s/a')).toEqual(['s/a/state']);
    await storage.delete('s/a/state');
    expect(await storage.list('s/a')).toEqual([]);
    expect(await storage.load('s')).toEqual({ key: 's' });
  });

  test.each([
    '',
    '/',
    'a/',
    '/a',
    '..',
    'a/../b',
    '.a',
    'a/.b',
    'a b',
    'a\n',
    'ü',
    'a'.repeat(129),
  ])('refuses the key %j', async (key) => {
    const storage = open(await makeDirectory());
    const calls = [storage.save(key, 1), storage.load(key), storage.delete(key)];
    for (const call of [...calls, storage.list(key)]) {
      expect((await rejection(call)).code).toBe('ERR_STATE_KEY');
    }
  });

  test('is the same for whoever opens it next', async () => {
    const directory = await makeDirectory();
    await open(directory).save('a', [1]);
    await expect.poll(() => open(directory).load('a')).toEqual([1]);
  });

  test('takes many calls at once', async () => {
    const storage = open(await makeDirectory());
    const numbers = Array.from({ length: 50 }, (_, index) => index);
    await Promise.all(numbers.map((number) => storage.save(`n/${number % 10}`, number)));
    expect(await storage.list('n')).toHaveLength(10);
    const values = await Promise.all(numbers.slice(0, 10).map((n) => storage.load(`n/${n}`)));
    expect(values.map((value) => (value as number) % 10)).toEqual(numbers.slice(0, 10));
    await Promise.all(numbers.map((number) => storage.delete(`n/${number % 10}`)));
    expect(await storage.list('n')).toEqual([]);
  });

  test('is used by several processes at once', async () => {
    const directory = await makeDirectory();
    const storage = open(directory);
    const children = Array.from({ length: 4 }, (_, number) =>
      spawn(process.execPath, args(directory, 'save', `p/${number}`, String(number)), {
        stdio: ['ignore', 'ignore', 'inherit'],
      }),
    );
    const ends = children.map((child) => once(child, 'exit'));
    for (let count = 0; count < 20; count += 1) await storage.save('p/here', count);
    expect(await Promise.all(ends)).toEqual(children.map(() => [0, null]));
    expect(await storage.list('p')).toEqual(['p/0', 'p/1', 'p/2', 'p/3', 'p/here']);
  });

  test('has the old record or the new one after a kill at every step of a save', {
    timeout: 300_000,
  }, async () => {
    const directory = await makeDirectory();
    const before = { text: 'old'.repeat(2000) };
    const after = { text: 'new'.repeat(3000) };
    await reopened(open, directory, (storage) => storage.save('s/a/config', before));
    await reopened(open, directory, (storage) => storage.save('s/b/config', 1));
    const seen = new Set<string>();
    const steps = await killer.everyStep(
      directory,
      args(directory, 'save', 's/a/config', JSON.stringify(after)),
      async () => {
        await reopened(open, directory, async (storage) => {
          const value = await storage.load('s/a/config');
          seen.add(JSON.stringify(value));
          expect([before, after]).toContainEqual(value);
          expect(await storage.list('s')).toEqual(['s/a/config', 's/b/config']);
          await storage.save('s/a/config', before);
        });
      },
    );
    expect(steps).toBeGreaterThanOrEqual(6);
    expect(seen).toContain(JSON.stringify(before));
    await reopened(open, directory, async (storage) => {
      expect(await storage.load('s/a/config')).toEqual(after);
    });
  });

  test('has a record or none after a kill at every step of the first save, and of a delete', {
    timeout: 300_000,
  }, async () => {
    for (const call of ['save', 'delete']) {
      const directory = join(await makeDirectory(), 'home');
      if (call === 'delete') await reopened(open, directory, (it) => it.save('s/a/config', 7));
      const steps = await killer.everyStep(
        directory,
        args(directory, call, 's/a/config', '7'),
        async () => {
          await reopened(open, directory, async (storage) => {
            const value = await storage.load('s/a/config');
            expect([undefined, 7]).toContain(value);
            expect(await storage.list('s')).toEqual(value === undefined ? [] : ['s/a/config']);
            if (call === 'save') await storage.delete('s/a/config');
            else await storage.save('s/a/config', 7);
          });
        },
      );
      expect(steps).toBeGreaterThanOrEqual(1);
      await reopened(open, directory, async (storage) => {
        expect(await storage.load('s/a/config')).toBe(call === 'save' ? 7 : undefined);
      });
    }
  });
});

/** A database is closed a moment after its last call; what a dead process left is opened anew. */
async function reopened(
  open: (directory: string) => Storage,
  directory: string,
  use: (storage: Storage) => Promise<void>,
): Promise<void> {
  await use(open(directory));
}

describe('FileStorage', () => {
  test('syncs the file before it is renamed, and the directory after', async () => {
    const directory = await makeDirectory();
    const entry = pathToFileURL(join(packageRoot(), 'dist/state/storage/file-storage.js')).href;
    const call = [fixture, entry, 'FileStorage', directory, 'save', 'a', '"text"'];
    const trace = await killer.trace(directory, call);
    const calls = trace.filter((line) => !line.startsWith('half') && !line.startsWith('mkdir'));
    expect(calls.map((line) => line.replace(/\.record-[-\w]+/, 'INCOMING'))).toEqual([
      `create ${directory}/INCOMING`,
      `write ${directory}/INCOMING`,
      `fsync ${directory}/INCOMING`,
      `rename ${directory}/a.json`,
      `fsync ${directory}`,
    ]);
  });

  test('keeps records to their owner', async () => {
    const directory = join(await makeDirectory(), 'home');
    await new FileStorage(directory).save('s/a/config', 1);
    expect((await stat(directory)).mode & 0o777).toBe(0o700);
    expect((await stat(join(directory, 's/a'))).mode & 0o777).toBe(0o700);
    expect((await stat(join(directory, 's/a/config.json'))).mode & 0o777).toBe(0o600);
    expect(await readdir(join(directory, 's/a'))).toEqual(['config.json']);
  });

  test.each(['', '{', '{"a":1}x', '\0\0\0\0'])(
    'says that a record with %j is damaged',
    async (text) => {
      const directory = await makeDirectory();
      await mkdir(join(directory, 's'));
      await writeFile(join(directory, 's/torn.json'), text);
      const storage = new FileStorage(directory);
      const error = await rejection(storage.load('s/torn'));
      expect(error).toMatchObject({ code: 'ERR_STATE_CORRUPT', context: { key: 's/torn' } });
      expect(await storage.list('s')).toEqual(['s/torn']);
      await storage.save('s/torn', 'whole');
      expect(await storage.load('s/torn')).toBe('whole');
    },
  );

  test('lists past what is no record', async () => {
    const directory = await makeDirectory();
    const storage = new FileStorage(directory);
    await storage.save('s/a', 1);
    await writeFile(join(directory, 's/.record-x'), 'half of a rec');
    await writeFile(join(directory, 's/notes.txt'), '');
    await mkdir(join(directory, 's/directory.json'));
    expect(await storage.list('s')).toEqual(['s/a']);
  });

  test('names the place and the cure where it cannot write', async () => {
    const error = await rejection(new FileStorage('/proc/no-such-place').save('a', 1));
    expect(error.code).toBe('ERR_STATE_DIR');
    expect(error.message).toContain('/proc/no-such-place');
  });
});

describe('LevelStorage', () => {
  test('says that a damaged database is damaged', async () => {
    const directory = await makeDirectory();
    await writeFile(join(directory, 'CURRENT'), 'nonsense');
    const error = await rejection(new LevelStorage(directory).load('a'));
    expect(error.code).toBe('ERR_STATE_DIR');
    expect(error.message).toContain(directory);
  });
});
