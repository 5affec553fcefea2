import { existsSync } from 'node:fs';
import { mkdir, readdir, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  discardTemplate,
  findTemplate,
  TemplateDraft,
  templatesDirectory,
} from '../../lib/state/templates/template-store.js';
import { useFreshHome } from '../helpers/home.js';

useFreshHome();

const GUEST = { kernelRelease: '6.1.0', agentVersion: '1.2.3' };

async function make(key: string): Promise<void> {
  const draft = await TemplateDraft.begin(key);
  if (draft === undefined) throw new Error('nobody else makes it');
  await mkdir(draft.machine);
  await writeFile(draft.disk, 'disk');
  await draft.commit(GUEST);
}

const keys = async (): Promise<string[]> =>
  (await readdir(templatesDirectory())).filter((name) => !name.startsWith('.')).sort();

test('a template is there when it is complete', async () => {
  expect(await findTemplate('key')).toBeUndefined();
  const draft = await TemplateDraft.begin('key');
  await mkdir(draft?.machine ?? '');
  await writeFile(draft?.disk ?? '', 'disk');
  expect(await findTemplate('key')).toBeUndefined();
  await draft?.commit(GUEST);
  expect(await findTemplate('key')).toEqual({
    key: 'key',
    machine: join(templatesDirectory(), 'key/machine'),
    disk: join(templatesDirectory(), 'key/upper.ext4'),
    guest: GUEST,
  });
  await discardTemplate('key');
  await discardTemplate('key');
  expect(await findTemplate('key')).toBeUndefined();
  expect(await keys()).toEqual([]);
});

test('a template is made by one at a time, and once', async () => {
  const drafts = await Promise.all([TemplateDraft.begin('key'), TemplateDraft.begin('key')]);
  const [draft, ...others] = drafts.filter((made) => made !== undefined);
  expect(others).toEqual([]);
  expect(await TemplateDraft.begin('other').then((other) => other?.abandon())).toBeUndefined();
  await draft?.commit(GUEST);
  expect(await TemplateDraft.begin('key')).toBeUndefined();
});

test('one that was given up leaves nothing, and another may be made', async () => {
  const draft = await TemplateDraft.begin('key');
  await writeFile(draft?.disk ?? '', 'disk');
  await draft?.abandon();
  expect(existsSync(draft?.disk ?? '')).toBe(false);
  await make('key');
  expect(await findTemplate('key')).toBeDefined();
});

test('what a killed maker left does not count, and goes', async () => {
  const left = join(templatesDirectory(), '.new-key');
  const alsoLeft = join(templatesDirectory(), '.new-other');
  for (const path of [left, alsoLeft]) {
    await mkdir(path, { recursive: true });
    await writeFile(join(path, 'upper.ext4'), 'half');
  }
  expect(await findTemplate('key')).toBeUndefined();
  await make('key');
  expect(existsSync(left)).toBe(false);
  expect(existsSync(alsoLeft)).toBe(false);
});

test.each([
  ['empty', ''],
  ['not JSON', '{'],
  ['of another version', JSON.stringify({ version: 2, ...GUEST })],
  ['without a guest', JSON.stringify({ version: 1 })],
  ['too large', `${' '.repeat(5000)}${JSON.stringify({ version: 1, ...GUEST })}`],
])('a template whose manifest is %s is replaced', async (_, manifest) => {
  await make('key');
  await writeFile(join(templatesDirectory(), 'key/template.json'), manifest);
  expect(await findTemplate('key')).toBeUndefined();
  await make('key');
  expect(await findTemplate('key')).toMatchObject({ guest: GUEST });
});

test('the sixteen that were used last are kept', async () => {
  for (let index = 0; index < 16; index++) {
    await make(`key-${index}`);
    const used = new Date(2020, 1, index + 1);
    await utimes(join(templatesDirectory(), `key-${index}/template.json`), used, used);
  }
  // Used just now.
  await findTemplate('key-0');
  await make('key-16');
  const left = Array.from({ length: 17 }, (_, index) => `key-${index}`);
  expect(await keys()).toEqual(left.filter((key) => key !== 'key-1').sort());
});
