import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { ExecOptions } from '../../lib/config/exec.js';
import type { ExecError } from '../../lib/errors.js';
import type { ExecFailureKind } from '../../lib/rpc/gen/agent_pb.js';
import type { ExecResult } from '../../lib/sandbox/types.js';
import { rejection, thrown } from '../helpers/rejection.js';
import type { Script } from '../helpers/scripted-agent.js';
import { BLOCK, flood, greet, host, run, watchExecutions } from '../helpers/scripted-execution.js';

watchExecutions();

describe('stdin', () => {
  const cat: Script = async (agent) => {
    await agent.started();
    for (let data = await agent.stdin(); data !== undefined; data = await agent.stdin()) {
      await agent.stdout(data);
    }
    await agent.exit(0);
  };

  test('is closed at once by default', async () => {
    const result = await run(cat);
    expect(result).toMatchObject({ stdout: '', exitCode: 0 });
    expect(run(greet).stdin).toBeNull();
  });

  test.each([
    ['text', 'grüße'],
    ['bytes', Buffer.from('grüße')],
    [
      'an iterable',
      (async function* () {
        yield Buffer.from('gr');
        yield Buffer.from('üße');
      })(),
    ],
  ])('takes %s', async (_, stdin) => {
    expect(await run(cat, { stdin })).toMatchObject({ stdout: 'grüße', exitCode: 0 });
  });

  test('takes more than a message holds', async () => {
    const stdin = Buffer.alloc(1_000_000, 'abc');
    const result = await run(cat, { stdin });
    expect(result.stdout === stdin.toString()).toBe(true);
  });

  test('is a stream with pipe', async () => {
    const execution = run(cat, { stdin: 'pipe' });
    execution.stdin?.write('one ');
    execution.stdin?.end('two');
    expect((await execution).stdout).toBe('one two');
  });

  test('that is not read makes the writer wait', async () => {
    const execution = run(
      async (agent) => {
        await agent.started();
        await agent.signal();
        await agent.exitBy(9);
      },
      { stdin: 'pipe' },
    );
    let written = 0;
    const write = (): void => {
      while (execution.stdin?.write(BLOCK) === true) written += 1;
      execution.stdin?.once('drain', write);
    };
    write();
    await sleep(300);
    expect(written * BLOCK.length).toBeLessThan(8 * 2 ** 20);
    await execution.kill(9);
    expect((await execution).signal).toBe('SIGKILL');
    expect(execution.stdin?.destroyed).toBe(true);
    execution.stdin?.write('too late');
    await sleep(20);
  });

  test('that the program does not read to its end is no error', async () => {
    let returned = false;
    async function* endless(): AsyncGenerator<Buffer> {
      try {
        for (;;) yield BLOCK;
      } finally {
        returned = true;
      }
    }
    const execution = run(
      async (agent) => {
        await agent.started();
        await agent.stdin();
        await agent.exit(0);
      },
      { stdin: endless() },
    );
    expect(await execution).toMatchObject({ exitCode: 0 });
    await expect.poll(() => returned).toBe(true);
  });

  test('whose source is silent does not hold up the end', async () => {
    const silent: AsyncIterable<Uint8Array> = {
      [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }),
    };
    expect(await run(greet, { stdin: silent })).toMatchObject({ exitCode: 3 });
  });

  test('whose source fails kills the program', async () => {
    const cause = new Error('no more');
    async function* broken(): AsyncGenerator<Buffer> {
      yield Buffer.from('some');
      throw cause;
    }
    const execution = run(
      async (agent) => {
        await agent.started();
        await agent.exitBy(await agent.signal());
      },
      { stdin: broken() },
    );
    const error = await rejection<ExecError<ExecResult>>(execution);
    expect(error).toMatchObject({ code: 'ERR_EXEC_STDIN', cause, result: { signal: 'SIGKILL' } });
  });
});

describe('an end before the time', () => {
  const talkUntilKilled: Script = async (agent) => {
    await agent.started();
    await agent.stdout('so far');
    await agent.exitBy(await agent.signal());
  };

  test('by timeout has what was captured', async () => {
    const error = await rejection<ExecError<ExecResult>>(run(talkUntilKilled, { timeoutMs: 50 }));
    expect(error).toMatchObject({
      code: 'ERR_EXEC_TIMEOUT',
      result: { stdout: 'so far', signal: 'SIGKILL', timedOut: true, success: false },
    });
    expect(error.message).toContain('50 ms');
  });

  test('by abort has the reason as its cause', async () => {
    const reason = new DOMException('enough', 'AbortError');
    const controller = new AbortController();
    const execution = run(talkUntilKilled, { signal: controller.signal });
    await execution.pid;
    controller.abort(reason);
    const error = await rejection<ExecError<ExecResult>>(execution);
    expect(error).toMatchObject({ code: 'ERR_EXEC_ABORTED', result: { timedOut: false } });
    expect(error.cause).toBe(reason);
  });

  test('by a signal that is aborted already starts nothing', async () => {
    let started = false;
    const execution = run(
      async () => {
        started = true;
      },
      { signal: AbortSignal.abort() },
    );
    expect((await rejection(execution)).code).toBe('ERR_EXEC_ABORTED');
    await rejection(execution.pid);
    expect(started).toBe(false);
  });

  test('while it still connects', async () => {
    const slow = host(talkUntilKilled);
    slow.connectDelay = sleep(100);
    const execution = run(talkUntilKilled, { timeoutMs: 20 }, slow);
    expect((await rejection(execution)).code).toBe('ERR_EXEC_TIMEOUT');
  });

  test('kills also a program whose output nobody reads any more', async () => {
    const counter = { blocks: 0 };
    const execution = run(flood(counter), { timeoutMs: 100 });
    const first = execution.stdout[Symbol.asyncIterator]();
    await first.next();
    expect((await rejection(execution)).code).toBe('ERR_EXEC_TIMEOUT');
  });

  test('by disposal', async () => {
    const execution = run(talkUntilKilled);
    await execution.pid;
    await execution[Symbol.asyncDispose]();
    expect(await execution).toMatchObject({ signal: 'SIGKILL' });
    await execution[Symbol.asyncDispose]();
  });
});

describe('kill', () => {
  const reportSignal: Script = async (agent) => {
    await agent.started();
    await agent.exitBy(await agent.signal());
  };

  test.each([
    [undefined, 'SIGTERM'],
    ['SIGINT', 'SIGINT'],
    [10, 'SIGUSR1'],
  ] as const)('%s sends %s', async (signal, name) => {
    const execution = run(reportSignal);
    await execution.kill(signal);
    expect((await execution).signal).toBe(name);
  });

  test.each(['SIGNOPE', 65, -1, 1.5])('%s is refused', async (signal) => {
    const execution = run(greet);
    const error = await rejection(execution.kill(signal as number));
    expect(error.code).toBe('ERR_INVALID_CONFIG');
    await execution;
  });

  test('of a program that has ended does nothing', async () => {
    const execution = run(greet);
    await execution;
    await execution.kill();
  });
});

describe('failures to start', () => {
  test.each([
    [1, 'not_found'],
    [2, 'permission_denied'],
    [3, 'not_executable'],
    [4, 'bad_cwd'],
    [5, 'bad_user'],
    [6, 'resource_limit'],
    [7, 'out_of_memory'],
    [8, 'bad_request'],
    [9, 'pty_failed'],
    [99, 'unknown'],
  ])('kind %d is %s', async (kind, name) => {
    const execution = run(async (agent) => {
      await agent.send({
        $case: 'failed',
        value: { kind: kind as ExecFailureKind, errno: 13, message: 'why' },
      });
    });
    const error = await rejection<ExecError>(execution);
    expect(error).toMatchObject({ code: 'ERR_EXEC_FAILED', kind: name, errno: 'EACCES' });
    expect(error.message).toContain('"prog"');
    expect(error.message).toContain('why');
    expect(await rejection(execution.pid)).toBe(error);
  });
});

describe('an agent that breaks the protocol', () => {
  test('by an end without an exit', async () => {
    const execution = run(async (agent) => {
      await agent.started();
    });
    expect((await rejection(execution)).code).toBe('ERR_RPC_PROTOCOL');
  });

  test('by an event of no kind', async () => {
    const execution = run(async (agent) => {
      await agent.send(undefined);
    });
    expect((await rejection(execution)).code).toBe('ERR_RPC_PROTOCOL');
  });

  test('by dying', async () => {
    const execution = run(async (agent) => {
      agent.socket.destroy();
      await sleep(1000);
    });
    expect((await rejection(execution)).code).toBe('ERR_RPC_CONNECTION_LOST');
  });
});

test('invalid options throw at once', () => {
  expect(thrown(() => run(greet, { nope: 1 } as ExecOptions)).code).toBe('ERR_INVALID_CONFIG');
});
