import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ExecEvent, type Execution, Sandbox } from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

useHome();
let sandbox: Sandbox;

/** What a terminal shows, and a wait for some of it. */
class Screen {
  readonly execution: Execution;
  text = '';
  #wake = (): void => {};

  constructor(execution: Execution) {
    this.execution = execution;
    execution.stdout.on('data', (chunk: Buffer) => {
      this.text += chunk.toString('latin1');
      this.#wake();
    });
    execution.stdout.on('close', () => this.#wake());
  }

  type(text: string | Uint8Array): void {
    this.execution.stdin?.write(text);
  }

  /** Waits until `what` has come, and forgets everything up to it. */
  async see(what: string): Promise<string> {
    for (;;) {
      const at = this.text.indexOf(what);
      if (at >= 0) {
        const seen = this.text.slice(0, at + what.length);
        this.text = this.text.slice(at + what.length);
        return seen;
      }
      if (this.execution.stdout.closed) throw new Error(`no ${what} in ${this.text}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

describeGuest('a terminal', () => {
  beforeAll(async () => {
    sandbox = await Sandbox.create(small());
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await sandbox?.close();
  });

  test('has the size that was asked for, or 24 by 80', async () => {
    expect(await sandbox.exec('stty', ['size'], { tty: true })).toMatchObject({
      stdout: '24 80\r\n',
      stderr: '',
      exitCode: 0,
    });
    const sized = await sandbox.exec('stty', ['size'], { tty: { rows: 50, cols: 132 } });
    expect(sized.stdout).toBe('50 132\r\n');
  });

  test('is what the program has on 0, 1 and 2, and controls its session', async () => {
    const script = 'for fd in 0 1 2; do test -t $fd || echo $fd; done; tty; echo here > /dev/tty';
    const { stdout, exitCode } = await sandbox.shell(`${script}; exit 9`, { tty: true });
    expect(stdout).toMatch(/^\/dev\/pts\/\d+\r\nhere\r\n$/);
    expect(exitCode).toBe(9);
  });

  test('belongs to the user', async () => {
    const options = { tty: true, user: '1000:1000' };
    const { stdout } = await sandbox.shell('stat -c "%u %g %a" $(tty)', options);
    expect(stdout).toBe('1000 5 620\r\n');
  });

  test('has a TERM, which env may replace', async () => {
    const shown = sandbox.shell('echo $TERM', { tty: true });
    const other = sandbox.shell('echo $TERM', { tty: true, env: { TERM: 'vt100' } });
    expect([(await shown).stdout, (await other).stdout]).toEqual([
      'xterm-256color\r\n',
      'vt100\r\n',
    ]);
    expect((await sandbox.shell('echo "[$TERM]"')).stdout).toBe('[]\n');
  });

  test('has one output', async () => {
    const execution = sandbox.shell('echo out; echo err >&2', { tty: true });
    expect(execution.stderr).toBeNull();
    const events: string[] = [];
    for await (const event of execution as AsyncIterable<ExecEvent>) events.push(event.type);
    expect(events[0]).toBe('started');
    expect(events.at(-1)).toBe('exited');
    expect(new Set(events.slice(1, -1))).toEqual(new Set(['stdout']));
    expect((await sandbox.shell('echo out; echo err >&2', { tty: true })).stdout).toBe(
      'out\r\nerr\r\n',
    );
  });

  test('takes a new size while a read waits, and tells the program', async () => {
    const screen = new Screen(
      sandbox.shell('trap "stty size" WINCH; echo ready; while :; do read -r line; done', {
        tty: true,
      }),
    );
    await screen.see('ready');
    await screen.execution.resize(40, 100);
    await screen.see('40 100\r\n');
    await screen.execution.resize(41, 101);
    await screen.see('41 101\r\n');
    await screen.execution.kill('SIGKILL');
    expect((await screen.execution).signal).toBe('SIGKILL');
    await screen.execution.resize(1, 1);
  });

  test('interrupts with Ctrl-C', async () => {
    const screen = new Screen(sandbox.shell('echo ready; exec sleep 1000', { tty: true }));
    await screen.see('ready');
    screen.type('\x03');
    expect(await screen.execution).toMatchObject({ exitCode: null, signal: 'SIGINT' });
  });

  test('has job control: Ctrl-Z stops, fg continues', async () => {
    const screen = new Screen(sandbox.exec('sh', ['-i'], { tty: true, env: { PS1: '> ' } }));
    await screen.see('> ');
    // What is typed comes back, too: the sum tells the program's output from it.
    screen.type('sh -c "echo go $((40 + 1)); exec sleep 1000"\r');
    await screen.see('go 41');
    screen.type('\x1a');
    await screen.see('Stopped');
    screen.type('jobs; echo now $((40 + 2)); fg\r');
    await screen.see('Stopped');
    await screen.see('now 42');
    await sleep(2000);
    screen.type('\x03');
    await screen.see('> ');
    screen.type('echo still $((40 + 3)); exit 3\r');
    await screen.see('still 43');
    expect((await screen.execution).exitCode).toBe(3);
  });

  test('carries 100 KB both ways intact in raw mode', async () => {
    const data = randomBytes(100_000);
    const execution = sandbox.shell(`stty raw -echo; echo -n ready; head -c ${data.length}`, {
      tty: true,
    });
    const chunks: Buffer[] = [];
    let received = 0;
    for await (const chunk of execution.stdout as AsyncIterable<Buffer>) {
      if (received === 0) execution.stdin?.write(data);
      received += chunk.length;
      chunks.push(chunk);
    }
    expect(Buffer.concat(chunks).equals(Buffer.concat([Buffer.from('ready'), data]))).toBe(true);
    expect((await execution).exitCode).toBe(0);
  });

  test('loses nothing that was written before the end', async () => {
    const execution = sandbox.shell('seq 1 2000 | cat; echo -n end', { tty: true });
    const { stdout } = await execution;
    expect(stdout.endsWith('\r\n2000\r\nend')).toBe(true);
    expect(stdout.split('\r\n')).toHaveLength(2001);
  });

  test('stops a program whose output nobody reads', async () => {
    const execution = sandbox.exec('yes', [], { tty: true });
    await execution.pid;
    await sleep(500);
    const before = sandbox.exec('cat', [`/proc/${await execution.pid}/io`]);
    const { stdout } = await before;
    await sleep(300);
    expect((await sandbox.exec('cat', [`/proc/${await execution.pid}/io`])).stdout).toBe(stdout);
    await execution.kill('SIGKILL');
    execution.stdout.resume();
    expect((await execution).signal).toBe('SIGKILL');
  });

  test.each(['text\n', 'text', ''])('ends with its input %j', async (stdin) => {
    const { stdout, exitCode } = await sandbox.shell('stty -echo; cat > /tmp/in; wc -c < /tmp/in', {
      tty: true,
      stdin,
    });
    // Whether the input is echoed depends on which comes first, it or stty.
    expect(/(\d+)\r\n$/.exec(stdout)?.[1]).toBe(String(stdin.length));
    expect(exitCode).toBe(0);
  });

  test('hangs up what the program leaves behind', async () => {
    const { stdout } = await sandbox.shell('sleep 1000 & echo $!', { tty: true });
    await expect
      .poll(async () => (await sandbox.shell(`kill -0 ${stdout.trim()}`)).success)
      .toBe(false);
  });

  describe('is bound like any command', () => {
    test('by a time limit', async () => {
      const error = await rejection(
        sandbox.shell('echo started; sleep 1000', { tty: true, timeoutMs: 3000 }),
      );
      expect(error).toMatchObject({
        code: 'ERR_EXEC_TIMEOUT',
        result: { stdout: 'started\r\n', timedOut: true },
      });
    });

    test('by an abort', async () => {
      const abort = new AbortController();
      const execution = sandbox.exec('sleep', ['1000'], { tty: true, signal: abort.signal });
      await execution.pid;
      abort.abort();
      expect((await rejection(execution)).code).toBe('ERR_EXEC_ABORTED');
    });

    test('by what cannot be started', async () => {
      expect(await rejection(sandbox.exec('/nowhere', [], { tty: true }))).toMatchObject({
        code: 'ERR_EXEC_FAILED',
        kind: 'not_found',
      });
    });
  });

  test('may be one of many', async () => {
    const all = Array.from({ length: 6 }, (_, index) =>
      sandbox.shell(`stty size; exit ${index}`, { tty: { rows: 10 + index, cols: 20 } }),
    );
    const results = await Promise.all(all);
    expect(results.map(({ stdout, exitCode }) => [stdout, exitCode])).toEqual(
      all.map((_, index) => [`${10 + index} 20\r\n`, index]),
    );
  });

  test('cannot be made where there are none left', async () => {
    await sandbox.shell('echo 0 > /proc/sys/kernel/pty/max');
    const error = await rejection(sandbox.exec('true', [], { tty: true }));
    expect(error).toMatchObject({ code: 'ERR_EXEC_FAILED' });
    expect(error.message).toContain('ptmx');
    await sandbox.shell('echo 4096 > /proc/sys/kernel/pty/max');
    expect((await sandbox.exec('true', [], { tty: true })).exitCode).toBe(0);
  });
});
