import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { ImageProgressEvent } from '../../lib/config/image.js';
import { type ProgressStream, showProgress } from '../../lib/image/progress-display.js';
import { pull } from '../../lib/image/store/pull.js';
import { useFreshHome } from '../helpers/home.js';
import { layerOf, MadeSource } from '../helpers/image-source.js';
import { rejection } from '../helpers/rejection.js';
import { Tmux } from '../helpers/tmux.js';

const scratch = mkdtempSync(join(tmpdir(), 'embervm-progress-'));
afterAll(() => rmSync(scratch, { recursive: true }));
useFreshHome();

const COLUMNS = 70;
const ROWS = 10;

class Recorder implements ProgressStream {
  readonly columns = COLUMNS;
  readonly rows = ROWS;
  readonly isTTY: boolean;
  readonly writes: string[] = [];

  constructor(isTTY: boolean) {
    this.isTTY = isTTY;
  }

  write(text: string): void {
    this.writes.push(text);
  }

  get text(): string {
    return this.writes.join('');
  }

  /** What a terminal has after all of it, what has scrolled away included. */
  async screen(): Promise<string[]> {
    const file = join(scratch, 'written');
    writeFileSync(file, `before\n${this.text}after\n`);
    const tmux = new Tmux(`cat ${file}; sleep 60`, COLUMNS, ROWS);
    try {
      await tmux.see(/^after$/m);
      return tmux.screen().split('\n').slice(1, -1);
    } finally {
      tmux.close();
    }
  }
}

function tarOf(file: string, content: Buffer): Buffer {
  writeFileSync(join(scratch, file), content);
  return execFileSync('tar', ['-C', scratch, '-c', file], { maxBuffer: 1e9 });
}

const first = layerOf(tarOf('first', randomBytes(3 * 2 ** 20)));
const second = layerOf(tarOf('second', Buffer.from('small')));
const idOf = (digest: string): string => digest.slice('sha256:'.length).slice(0, 12);

async function pullTo(stream: ProgressStream, source: MadeSource, name: string): Promise<string> {
  const image = await pull({
    reference: name,
    name: `docker.io/library/${name}`,
    policy: 'if-missing',
    open: async () => source,
    report: showProgress(stream),
    signal: undefined,
  });
  return image.record.digest;
}

function layer(id: number, received: number, status: 'started' | 'progress' | 'done') {
  const digest = `sha256:${String(id).padStart(64, '0')}`;
  return {
    ...({ type: 'layer', digest, status } as const),
    receivedBytes: received * 2 ** 20,
    totalBytes: 8 * 2 ** 20,
    ...(status === 'done' ? { cached: false } : {}),
  };
}

test('a terminal has a line for each layer, in its place', async () => {
  const stream = new Recorder(true);
  const digest = await pullTo(stream, new MadeSource([first, second]), 'made:1');
  const [title, ...lines] = await stream.screen();
  expect(title).toBe(`made:1: ${digest}`.slice(0, COLUMNS - 2).concat('…'));
  expect(new Set(lines)).toEqual(
    new Set([`  ${idOf(first.digest)}  3.0 MiB, done`, `  ${idOf(second.digest)}  0.0 MiB, done`]),
  );
  expect(stream.writes.length).toBeGreaterThan(5);
  // It is in the store now, which is not worth a word.
  const again = new Recorder(true);
  await pullTo(again, new MadeSource([first, second]), 'made:1');
  expect(again.text).toBe('');
});

test('what is neither a terminal nor a smart one has lines that stay', async () => {
  const stream = new Recorder(false);
  const digest = await pullTo(stream, new MadeSource([second, first]), 'made:2');
  const lines = stream.text.split('\n');
  expect(lines.slice(0, 2)).toEqual([
    'made:2: looking it up',
    `made:2: ${digest}, 2 layers, 3.0 MiB`,
  ]);
  expect(lines).toContain(`${idOf(first.digest)}: fetching 3.0 MiB`);
  expect(lines.slice(-3)).toEqual(['making a root file system of it', 'made:2: done', '']);
  expect(stream.text).not.toContain('\x1b');
  const { TERM } = process.env;
  process.env.TERM = 'dumb';
  const dumb = new Recorder(true);
  const show = showProgress(dumb);
  if (TERM === undefined) delete process.env.TERM;
  else process.env.TERM = TERM;
  show({ type: 'resolving', reference: 'x' });
  expect(dumb.text).toBe('x: looking it up\n');
});

test('bars grow, and what is told below them stays', async () => {
  const stream = new Recorder(true);
  const show = showProgress(stream);
  show({ type: 'resolving', reference: 'image' });
  show(layer(1, 0, 'started'));
  show({ type: 'stage', stage: 'image', status: 'begin' });
  await new Promise((resolve) => setTimeout(resolve, 60));
  show(layer(1, 4, 'progress'));
  const drawn = stream.writes.length;
  for (let n = 0; n < 100; n++) show(layer(1, 5, 'progress'));
  expect(stream.writes.length).toBeLessThan(drawn + 10);
  show(layer(2, 0, 'started'));
  expect(await stream.screen()).toEqual([
    'image: 0 of 0 layers',
    `  000000000000  [${'='.repeat(15)}>${' '.repeat(8)}]  5.0 MiB of 8.0 MiB`,
    `  000000000000  [>${' '.repeat(23)}]  0.0 MiB of 8.0 MiB`,
  ]);
  const error = await rejection(
    pullTo(stream, new MadeSource([{ ...second, size: second.size + 1 }]), 'broken:1'),
  );
  expect(error.code).toBe('ERR_IMAGE_SIZE');
  const screen = await stream.screen();
  expect(screen.slice(0, 1)).toEqual(['image: 0 of 0 layers']);
  expect(screen.at(-2)).toBe('broken:1: 0 of 1 layer');
});

test('more layers than the window has lines leave room for those that are open', async () => {
  const stream = new Recorder(true);
  const show = showProgress(stream);
  show({ type: 'resolving', reference: 'large' });
  show({ type: 'resolved', reference: 'large', digest: 'd', layers: 40, totalBytes: 0 });
  for (let id = 0; id < 30; id++) {
    show(layer(id, 0, 'started'));
    if (id !== 3) show(layer(id, 8, 'done'));
  }
  const screen = await stream.screen();
  expect(screen).toHaveLength(ROWS - 1);
  expect(screen[0]).toBe('large: 29 of 40 layers');
  expect(screen.filter((line) => line.includes('>'))).toHaveLength(1);
});

test('no name commands the terminal, or takes two lines', async () => {
  const stream = new Recorder(true);
  const show = showProgress(stream);
  const reference = `\x1b[2J\x9b31m\r\n${'漢'.repeat(COLUMNS)}`;
  const events: ImageProgressEvent[] = [
    { type: 'resolving', reference },
    { type: 'converting', digest: 'd', totalBytes: 0 },
  ];
  for (const event of events) show(event);
  const [line, ...others] = await stream.screen();
  expect(others).toEqual([]);
  expect(line).toMatch(/^\?\[2J\?31m\?\?漢+…$/);
  const lines = new Recorder(false);
  showProgress(lines)({ type: 'resolving', reference });
  expect(lines.text).toBe(`?[2J?31m??${'漢'.repeat(COLUMNS)}: looking it up\n`);
});
