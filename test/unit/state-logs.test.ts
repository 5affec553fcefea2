import { appendFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type LogStreamOptions,
  parseLogOptions,
  parseLogStreamOptions,
} from '../../lib/config/logs.js';
import {
  formatCursor,
  formatEntry,
  type LogEntry,
  parseCursor,
  parseEntry,
} from '../../lib/state/logs/entry.js';
import { type LogFollow, readLog, streamLog } from '../../lib/state/logs/reader.js';
import { type LogLimits, LogWriter } from '../../lib/state/logs/writer.js';
import { useDirectory } from '../helpers/directory.js';
import { rejection, thrown } from '../helpers/rejection.js';

const makeDirectory = useDirectory();
const ID = 'an-id';
const small: LogLimits = { segmentBytes: 1000, segments: 3, pendingBytes: 2000 };

interface Log {
  directory: string;
  writer: LogWriter;
  read(options?: object): Promise<LogEntry[]>;
  texts(options?: object): Promise<string[]>;
  stream(options?: LogStreamOptions, follow?: Partial<LogFollow>): AsyncGenerator<LogEntry>;
}

async function makeLog(limits?: LogLimits): Promise<Log> {
  const directory = join(await makeDirectory(), 'logs');
  const log = { id: ID, directory };
  const writer = new LogWriter(directory, 'info', limits);
  const read = (options: object = {}): Promise<LogEntry[]> =>
    readLog(log, parseLogOptions(options));
  return {
    directory,
    writer,
    read,
    texts: async (options) => (await read(options)).map(({ text }) => text),
    stream: (options = {}, follow = {}) =>
      streamLog(log, parseLogStreamOptions(options), {
        isOver: async () => true,
        more: () => sleep(5),
        ...follow,
      }),
  };
}

async function collect(stream: AsyncIterable<LogEntry>): Promise<string[]> {
  const texts: string[] = [];
  for await (const { text } of stream) texts.push(text);
  return texts;
}

describe('a line', () => {
  test.each([
    ['text', Buffer.from('ü\n')],
    ['NUL bytes', Buffer.alloc(3000)],
    ['bytes that are no text', Buffer.from([0xff, 0xfe, 0x80])],
  ])('has %s back as it was, and is hardly longer', (_, data) => {
    const line = formatEntry({ source: 'stdout', execId: 1n, data }, 7);
    expect(line.length).toBeLessThan(data.length * 1.4 + 60);
    const entry = parseEntry(line.trimEnd(), () => 'c');
    expect(Buffer.from(entry?.data ?? [])).toEqual(data);
    expect(entry?.text).toBe(data.toString('utf8'));
  });
});

describe('a log', () => {
  test('has what was written, with its source, time and command', async () => {
    const { writer, read, directory } = await makeLog();
    const before = Date.now();
    void writer.write({ source: 'stdout', execId: 7n, data: Buffer.from('out ü\n') });
    void writer.write({ source: 'stderr', execId: 2n ** 60n, data: Buffer.from('err') });
    writer.system('info', 'told');
    await writer.flush();
    const [out, err, ...more] = await read();
    expect(more).toEqual([]);
    expect(out).toMatchObject({ source: 'stdout', execId: '7', level: null, text: 'out ü\n' });
    expect(Buffer.from(out?.data ?? []).toString()).toBe('out ü\n');
    expect(out?.timestamp.getTime()).toBeGreaterThanOrEqual(before);
    expect(err).toMatchObject({ source: 'stderr', execId: String(2n ** 60n) });
    expect(await read({ sources: ['system'] })).toMatchObject([
      { source: 'system', level: 'info', text: 'told', execId: null },
    ]);
    await writer.close();
    expect((await stat(directory)).mode & 0o777).toBe(0o700);
    expect((await stat(join(directory, '00000001.jsonl'))).mode & 0o777).toBe(0o600);
  });

  test('is empty where nothing was written', async () => {
    const { read, stream, writer, directory } = await makeLog();
    expect(await read()).toEqual([]);
    expect(await collect(stream())).toEqual([]);
    await writer.close();
    await expect(stat(directory)).rejects.toThrow('ENOENT');
  });

  test('gives any bytes back', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 40 }),
        async (all) => {
          const { writer, read } = await makeLog({ ...small, segments: 100 });
          for (const data of all) await writer.write({ source: 'stdout', execId: 1n, data });
          await writer.close();
          const got = (await read()).map(({ data }) => Buffer.from(data));
          expect(got).toEqual(all.map((data) => Buffer.from(data)));
        },
      ),
      { numRuns: 50 },
    );
  });

  test('leaves out what is below its level', async () => {
    const { writer, texts } = await makeLog();
    for (const level of ['trace', 'debug', 'info', 'warn', 'error'] as const) {
      writer.system(level, level);
    }
    await writer.close();
    expect(await texts({ sources: ['system'] })).toEqual(['info', 'warn', 'error']);
  });

  test('is read by tail, time and source', async () => {
    const { writer, texts, read } = await makeLog();
    for (let n = 0; n < 3000; n += 1) {
      const source = n % 2 === 0 ? 'stdout' : 'stderr';
      await writer.write({ source, execId: 1n, data: `${n}` });
    }
    await writer.flush();
    expect(await texts({ tail: 2 })).toEqual(['2998', '2999']);
    expect(await texts({ tail: 0 })).toEqual([]);
    expect(await texts({ tail: 2, sources: ['stderr'] })).toEqual(['2997', '2999']);
    expect(await texts({ tail: 10_000 })).toHaveLength(3000);
    await sleep(5);
    const between = new Date();
    await sleep(5);
    await writer.write({ source: 'stdout', execId: 1n, data: 'late' });
    await writer.close();
    expect(await texts({ since: between })).toEqual(['late']);
    expect(await texts({ until: between.getTime() })).toHaveLength(3000);
    const late = (await read({ tail: 1 }))[0]?.timestamp ?? between;
    // `since` is inclusive, `until` is not.
    expect(await texts({ since: late })).toEqual(['late']);
    expect(await texts({ since: late, until: late })).toEqual([]);
  });
});

describe('rotation', () => {
  test('bounds the size and the number of files, and keeps the newest', async () => {
    const { writer, texts, directory } = await makeLog(small);
    for (let n = 0; n < 500; n += 1) {
      await writer.write({ source: 'stdout', execId: 1n, data: `line ${n}` });
    }
    await writer.close();
    const names = await readdir(directory);
    expect(names).toHaveLength(3);
    for (const name of names) {
      expect((await stat(join(directory, name))).size).toBeLessThanOrEqual(small.segmentBytes);
    }
    const kept = await texts();
    expect(kept.at(-1)).toBe('line 499');
    expect(kept).toEqual(kept.map((_, index) => `line ${500 - kept.length + index}`));
  });

  test('takes an entry that is larger than a file', async () => {
    const { writer, texts } = await makeLog(small);
    const large = 'x'.repeat(5000);
    for (const data of ['before', large, 'after']) {
      await writer.write({ source: 'stdout', execId: 1n, data });
    }
    await writer.close();
    expect(await texts()).toEqual(['before', large, 'after']);
  });

  test('goes on with the files of the run before', async () => {
    const { writer, texts, directory } = await makeLog(small);
    await writer.write({ source: 'stdout', execId: 1n, data: 'first' });
    await writer.close();
    const next = new LogWriter(directory, 'info', small);
    await next.write({ source: 'stdout', execId: 1n, data: 'second' });
    await next.close();
    expect(await readdir(directory)).toEqual(['00000001.jsonl']);
    expect(await texts()).toEqual(['first', 'second']);
  });
});

describe('a stream', () => {
  test('goes on after any entry, also over a rotation', async () => {
    const { writer, stream, read } = await makeLog({ ...small, segments: 100 });
    for (let n = 0; n < 60; n += 1) {
      await writer.write({ source: 'stdout', execId: 1n, data: `line ${n}` });
    }
    await writer.close();
    const all = await read();
    expect(all).toHaveLength(60);
    for (const [index, { cursor }] of all.entries()) {
      const rest = await collect(stream({ cursor }));
      expect(rest).toEqual(all.slice(index + 1).map(({ text }) => text));
    }
  });

  test('says so when what comes next was rotated away, or the cursor is none', async () => {
    const { writer, stream, read } = await makeLog(small);
    await writer.write({ source: 'stdout', execId: 1n, data: 'first' });
    await writer.flush();
    const cursor = (await read())[0]?.cursor;
    for (let n = 0; n < 500; n += 1) {
      await writer.write({ source: 'stdout', execId: 1n, data: `line ${n}` });
    }
    await writer.close();
    const foreign = formatCursor('another', { segment: 1, offset: 0 });
    const beyond = formatCursor(ID, {
      segment: parseCursor(ID, await last()).segment,
      offset: 1e9,
    });
    for (const bad of [cursor, foreign, beyond, 'nonsense', 'e30', 'W10']) {
      expect((await rejection(collect(stream({ cursor: bad })))).code).toBe('ERR_LOG_CURSOR');
    }
    async function last(): Promise<string> {
      return (await read()).at(-1)?.cursor ?? '';
    }
  });

  test('follows until the end, and misses nothing', async () => {
    const { writer, stream } = await makeLog({ ...small, segments: 100 });
    let over = false;
    const following = collect(
      stream(
        { follow: true },
        {
          isOver: async () => over,
          more: () => new Promise((resolve) => writer.onMore(resolve)),
        },
      ),
    );
    const written: string[] = [];
    for (let n = 0; n < 200; n += 1) {
      written.push(`line ${n}`);
      void writer.write({ source: 'stdout', execId: 1n, data: `line ${n}` });
      if (n % 7 === 0) await sleep(1);
    }
    await writer.flush();
    over = true;
    await writer.close();
    expect(await following).toEqual(written);
  });

  test('is given up', async () => {
    const { stream } = await makeLog();
    const controller = new AbortController();
    const following = collect(
      stream({ follow: true, signal: controller.signal }, { isOver: async () => false }),
    );
    setTimeout(() => controller.abort(), 20);
    expect((await rejection(following)).code).toBe('ERR_ABORTED');
  });
});

describe('a crash', () => {
  test('in the middle of a line loses that line and no other', async () => {
    const { writer, texts, directory, stream } = await makeLog();
    await writer.write({ source: 'stdout', execId: 1n, data: 'whole' });
    await writer.close();
    const file = join(directory, '00000001.jsonl');
    await appendFile(file, '{"t":1,"s":"stdout","d":"tor');
    expect(await texts()).toEqual(['whole']);
    const cursor = (await stream().next()).value?.cursor;
    const next = new LogWriter(directory, 'info');
    await next.write({ source: 'stdout', execId: 1n, data: 'after' });
    await next.close();
    expect(await texts()).toEqual(['whole', 'after']);
    expect(await collect(stream({ cursor }))).toEqual(['after']);
  });

  test.each(['', 'null', '[]', '{}', '{"t":1}', '{"t":1,"s":"stdin","d":""}', '\0'])(
    'that left the line %j does not harm the others',
    async (line) => {
      const { writer, texts, directory } = await makeLog();
      await writer.write({ source: 'stdout', execId: 1n, data: 'a' });
      await writer.close();
      await appendFile(
        join(directory, '00000001.jsonl'),
        `${line}\n{"t":1,"s":"stdout","d":"b"}\n`,
      );
      expect(await texts()).toEqual(['a', 'b']);
      expect(parseEntry(line, () => '')).toBeUndefined();
    },
  );
});

describe('a disk that does not take it', () => {
  test('ends nothing; the gap is told when there is room again', async () => {
    const { writer, texts, directory } = await makeLog();
    await writeFile(directory, 'in the way');
    await writer.write({ source: 'stdout', execId: 1n, data: 'lost' });
    void writer.write({ source: 'stdout', execId: 1n, data: 'lost too' });
    await writer.flush();
    await rm(directory);
    await writer.write({ source: 'stdout', execId: 1n, data: 'kept' });
    await writer.close();
    expect(await texts()).toEqual(['kept']);
    expect(await texts({ sources: ['system'] })).toEqual(['2 log entries could not be written']);
  });

  test('makes whoever writes too much wait, and holds only so much', async () => {
    const { writer, texts } = await makeLog();
    const data = Buffer.alloc(64 * 1024, 'x');
    let waited = 0;
    for (let n = 0; n < 320; n += 1) {
      const room = writer.write({ source: 'stdout', execId: 1n, data });
      if (room === undefined) continue;
      waited += 1;
      await room;
    }
    await writer.close();
    // 20 MiB in pieces of 2 MiB.
    expect(waited).toBeGreaterThanOrEqual(8);
    expect(waited).toBeLessThan(20);
    expect(await texts()).toHaveLength(320);
  });
});

test('options are checked', () => {
  const bad = [
    { tail: -1 },
    { tail: 1.5 },
    { since: 'yesterday' },
    { since: new Date(Number.NaN) },
    { sources: [] },
    { sources: ['stdin'] },
    { follow: true },
    { tails: 1 },
  ];
  for (const options of bad) {
    expect(thrown(() => parseLogOptions(options)).code).toBe('ERR_INVALID_CONFIG');
  }
  expect(thrown(() => parseLogStreamOptions({ tail: 1 })).code).toBe('ERR_INVALID_CONFIG');
});
