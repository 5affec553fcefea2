import { appendFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type LogEntry, Sandbox } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection, thrown } from '../helpers/rejection.js';

const home = useHome();
const NAME = 'logged';
const texts = (entries: LogEntry[]): string[] => entries.map(({ text }) => text);

async function collect(stream: AsyncIterable<LogEntry>): Promise<LogEntry[]> {
  const entries: LogEntry[] = [];
  for await (const entry of stream) entries.push(entry);
  return entries;
}

describeGuest('the logs of a sandbox', () => {
  let sandbox: Sandbox;

  beforeAll(async () => {
    sandbox = await Sandbox.create(small({ name: NAME, logLevel: 'debug' }));
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await sandbox?.kill();
  });

  test('have the output of its commands, whoever took it', async () => {
    expect(await sandbox.logs()).toEqual([]);
    await sandbox.shell('echo out; echo err >&2');
    for await (const event of sandbox.exec('echo', ['iterated'])) void event;
    await sandbox.exec('printf', ['\\377\\376'], { encoding: 'buffer' });
    const entries = await sandbox.logs();
    const of = (source: string): string[] =>
      texts(entries.filter((entry) => entry.source === source));
    expect(of('stderr')).toEqual(['err\n']);
    expect(of('stdout').slice(0, 2)).toEqual(['out\n', 'iterated\n']);
    expect(Buffer.from(entries.at(-1)?.data ?? [])).toEqual(Buffer.from([0xff, 0xfe]));
    expect(new Set(entries.map(({ execId }) => execId)).size).toBe(3);
    expect(texts(await sandbox.logs({ tail: 1, sources: ['stderr'] }))).toEqual(['err\n']);
  });

  test('keep the output of a terminal apart', async () => {
    await sandbox.shell('echo on a terminal', { tty: true });
    expect(texts(await sandbox.logs({ sources: ['output'] })).join('')).toBe('on a terminal\r\n');
  });

  test('say what happened to it', async () => {
    const system = await sandbox.logs({ sources: ['system'] });
    expect(texts(system)[0]).toMatch(/^booted in \d+ ms$/);
    expect(texts(system)).toContain('command 1: /bin/sh');
    expect(system.every(({ execId }) => execId === null)).toBe(true);
  });

  test('are followed by the sandbox and by a handle, to the end, and read afterwards', async () => {
    const last = (await sandbox.logs()).at(-1);
    const handle = await Sandbox.get(NAME);
    const options = { follow: true, cursor: last?.cursor };
    const followers = [sandbox.logStream(options), handle.logStream(options)].map(collect);
    await sandbox.shell('for n in 1 2 3; do echo $n; sleep 0.3; done');
    await sandbox.stop({ timeoutMs: 60_000 });
    for (const follower of followers) {
      expect(texts(await follower).join('')).toBe('1\n2\n3\n');
    }
    expect(await handle.logs({ tail: 2 })).toEqual(await sandbox.logs({ tail: 2 }));
    const system = texts(await handle.logs({ sources: ['system'] }));
    expect(system.some((text) => text.startsWith('stopped (requested)'))).toBe(true);
    expect(texts(await collect(handle.logStream({ cursor: last?.cursor }))).join('')).toBe(
      '1\n2\n3\n',
    );
  });

  test('tell why it did not boot again, and survive a torn line', async () => {
    const handle = await Sandbox.get(NAME);
    const before = await handle.logs({ sources: ['system'] });
    await rejection(Sandbox.start(NAME, { bootTimeoutMs: 50 }));
    const directory = join(home, 'sandboxes', NAME, 'logs');
    const [file = ''] = await readdir(directory);
    await appendFile(join(directory, file), '{"t":17,"s":"std');
    const after = await handle.logs({ sources: ['system'] });
    expect(after.slice(before.length)).toMatchObject([
      { level: 'error', text: expect.stringContaining('was not ready after 50 ms') },
    ]);
  });

  test('are checked for their options at once', async () => {
    const handle = await Sandbox.get(NAME);
    expect((await rejection(handle.logs({ tail: -1 }))).code).toBe('ERR_INVALID_CONFIG');
    expect(thrown(() => handle.logStream({ cursor: '' })).code).toBe('ERR_INVALID_CONFIG');
    const stream = handle.logStream({ cursor: 'nonsense' });
    expect((await rejection(collect(stream))).code).toBe('ERR_LOG_CURSOR');
  });

  test(
    'are none where they were not wanted',
    async () => {
      sandbox = await Sandbox.create(small({ name: NAME, replace: true, quietLogs: true }));
      expect((await sandbox.shell('echo out')).stdout).toBe('out\n');
      expect(await sandbox.logs({ sources: ['stdout', 'system'] })).toEqual([]);
      expect(await readdir(join(home, 'sandboxes', NAME))).not.toContain('logs');
    },
    BOOT_TIMEOUT_MS,
  );
});
