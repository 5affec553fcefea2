import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type ExecOptions, parseExecOptions } from '../../lib/config/exec.js';
import type { ExecError } from '../../lib/errors.js';
import type { ExecFailureKind } from '../../lib/rpc/gen/agent_pb.js';
import { CommandExecution } from '../../lib/sandbox/execution.js';
import type { ExecEvent, ExecResult } from '../../lib/sandbox/types.js';
import { rejection, thrown } from '../helpers/rejection.js';
import { type AgentSide, type Script, ScriptedHost } from '../helpers/scripted-agent.js';

const hosts: ScriptedHost[] = [];
const unhandled: unknown[] = [];
const onUnhandled = (error: unknown): void => {
  unhandled.push(error);
};

beforeEach(() => {
  process.on('unhandledRejection', onUnhandled);
});

afterEach(async () => {
  for (const host of hosts.splice(0)) for (const socket of host.sockets) socket.destroy();
  await sleep(0);
  process.off('unhandledRejection', onUnhandled);
  expect(unhandled.splice(0)).toEqual([]);
});

function host(script: Script): ScriptedHost {
  const made = new ScriptedHost(script);
  hosts.push(made);
  return made;
}

function run(
  script: Script,
  options: ExecOptions = {},
  on = host(script),
): CommandExecution<string> {
  const parsed = parseExecOptions(options);
  return new CommandExecution(
    on,
    { args: ['prog', 'arg'], env: ['A=1'], stdin: parsed.stdin !== 'null' },
    parsed,
  );
}

const BLOCK = Buffer.alloc(64 * 1024, 'x');

/** Writes blocks until the far end is killed or gone; counts what was taken. */
function flood(counter: { blocks: number }): Script {
  return async (agent) => {
    await agent.started();
    const killed = agent.signal();
    let done = false;
    void killed.then(() => {
      done = true;
    });
    while (!done) {
      await agent.stdout(BLOCK);
      counter.blocks += 1;
      await sleep(0);
    }
    await agent.exitBy(await killed);
  };
}

async function events(execution: AsyncIterable<ExecEvent>): Promise<string[]> {
  const seen: string[] = [];
  for await (const event of execution) {
    if (event.type === 'started') seen.push(`started ${event.pid}`);
    else if (event.type === 'exited') seen.push(`exited ${event.exitCode} ${event.signal}`);
    else seen.push(`${event.type} ${Buffer.from(event.data)}`);
  }
  return seen;
}

const greet: Script = async (agent) => {
  await agent.started(42);
  await agent.stdout('out ');
  await agent.stderr('err');
  await agent.stdout('more');
  await agent.exit(3);
};

describe('the result', () => {
  test('has output, exit code and pid', async () => {
    const execution = run(greet);
    expect(await execution).toMatchObject({
      exitCode: 3,
      signal: null,
      success: false,
      stdout: 'out more',
      stderr: 'err',
      timedOut: false,
      truncated: false,
    });
    expect(await execution.pid).toBe(42);
  });

  test('carries what was asked for to the agent', async () => {
    let seen: AgentSide['start'] | undefined;
    await run(async (agent) => {
      seen = agent.start;
      await agent.started();
      await agent.exit(0);
    });
    expect(seen).toMatchObject({ args: ['prog', 'arg'], env: ['A=1'], stdin: false, execId: 1n });
  });

  test('names the signal that ended the program', async () => {
    const result = await run(async (agent) => {
      await agent.started();
      await agent.exitBy(11);
    });
    expect(result).toMatchObject({ exitCode: null, signal: 'SIGSEGV', success: false });
  });

  test('is the same each time', async () => {
    const execution = run(greet);
    expect(await execution).toBe(await execution);
    expect(await execution.catch(() => 'no')).toBe(await execution);
  });

  test('holds bytes with encoding buffer', async () => {
    const data = Buffer.from([0, 255, 254, 10]);
    const result: ExecResult<Uint8Array> = (await run(
      async (agent) => {
        await agent.started();
        await agent.stdout(data);
        await agent.exit(0);
      },
      { encoding: 'buffer' },
    )) as unknown as ExecResult<Uint8Array>;
    expect(Buffer.from(result.stdout).equals(data)).toBe(true);
    expect(result.stderr).toHaveLength(0);
  });

  test('is cut at maxBuffer, of each stream, and the program ends by itself', async () => {
    const result = await run(
      async (agent) => {
        await agent.started();
        for (let count = 0; count < 40; count += 1) await agent.stdout(BLOCK);
        await agent.stderr('short');
        await agent.exit(0);
      },
      { maxBuffer: 100_000 },
    );
    expect(result).toMatchObject({ truncated: true, exitCode: 0, stderr: 'short' });
    expect(result.stdout).toHaveLength(100_000);
  });

  test('with maxBuffer 0 holds nothing', async () => {
    expect(await run(greet, { maxBuffer: 0 })).toMatchObject({ stdout: '', truncated: true });
  });
});

describe('without a terminal', () => {
  test('there is nothing to resize', async () => {
    const execution = run(greet);
    expect(await rejection(execution.resize(24, 80))).toMatchObject({
      code: 'ERR_NOT_A_TERMINAL',
      context: { file: 'prog' },
    });
    expect((await rejection(execution.resize(0, 80))).code).toBe('ERR_INVALID_CONFIG');
    expect((await execution).exitCode).toBe(3);
  });
});

describe('laziness', () => {
  test('a command that nobody consumes starts, and its output waits', async () => {
    const counter = { blocks: 0 };
    const execution = run(flood(counter));
    expect(await execution.pid).toBe(7);
    await sleep(300);
    const stalled = counter.blocks;
    expect(stalled * BLOCK.length).toBeLessThan(8 * 2 ** 20);
    await sleep(200);
    expect(counter.blocks).toBe(stalled);
    await execution.kill('SIGKILL');
    expect((await execution).signal).toBe('SIGKILL');
  });

  test('a failure that nobody awaits raises no unhandled rejection', async () => {
    run(async (agent) => {
      await agent.send({ $case: 'failed', value: { kind: 1, errno: 2, message: '' } });
    });
    await sleep(100);
  });

  test('a time limit does not depend on a consumer', async () => {
    const counter = { blocks: 0 };
    const execution = run(flood(counter), { timeoutMs: 50 });
    await sleep(400);
    expect((await rejection<ExecError>(execution)).code).toBe('ERR_EXEC_TIMEOUT');
  });
});

describe('streams', () => {
  test('carry the output, and the result has none of it', async () => {
    const execution = run(greet);
    const seen: string[] = [];
    for await (const chunk of execution.stdout) seen.push(String(chunk));
    expect(seen.join('')).toBe('out more');
    expect(await execution).toMatchObject({ stdout: '', stderr: 'err', exitCode: 3 });
  });

  test('touched after the await are a copy', async () => {
    const execution = run(greet);
    const result = execution.then((value) => value);
    let seen = '';
    execution.stdout.on('data', (chunk) => {
      seen += String(chunk);
    });
    expect((await result).stdout).toBe('out more');
    await once(execution.stdout, 'end').catch(() => {});
    expect(seen).toBe('out more');
  });

  test('have what was captured before they were touched', async () => {
    let next = (): void => {};
    const more = new Promise<void>((resolve) => {
      next = resolve;
    });
    const execution = run(async (agent) => {
      await agent.started();
      await agent.stderr('early');
      await agent.stdout('x');
      await more;
      await agent.stderr(' late');
      await agent.exit(0);
    });
    execution.stdout.resume();
    await once(execution.stdout, 'data');
    const { stderr } = execution;
    if (stderr === null) throw new Error('stderr is missing');
    let seen = '';
    stderr.on('data', (chunk) => {
      seen += String(chunk);
    });
    next();
    await once(stderr, 'end');
    expect(seen).toBe('early late');
  });

  test('that are read slowly stop the program', async () => {
    const counter = { blocks: 0 };
    const execution = run(flood(counter));
    const reader = execution.stdout[Symbol.asyncIterator]();
    await reader.next();
    await sleep(300);
    const stalled = counter.blocks;
    await sleep(200);
    expect(counter.blocks).toBe(stalled);
    for (let count = 0; count < 200; count += 1) await reader.next();
    expect(counter.blocks).toBeGreaterThan(stalled);
    await execution[Symbol.asyncDispose]();
  });

  test('that are destroyed do not stop the program', async () => {
    const execution = run(async (agent) => {
      await agent.started();
      for (let count = 0; count < 100; count += 1) await agent.stdout(BLOCK);
      await agent.exit(0);
    });
    execution.stdout.destroy();
    expect((await execution).exitCode).toBe(0);
  });

  test('of a failure close without an end and without an error event', async () => {
    const execution = run(async (agent) => {
      await agent.started();
      await agent.stdout('half');
      await sleep(20);
      agent.socket.destroy();
    });
    let ended = false;
    let failed = false;
    let seen = '';
    execution.stdout
      .on('end', () => {
        ended = true;
      })
      .on('error', () => {
        failed = true;
      })
      .on('data', (chunk) => {
        seen += String(chunk);
      });
    expect((await rejection(execution)).code).toBe('ERR_RPC_CONNECTION_LOST');
    await sleep(20);
    expect({ seen, ended, failed }).toEqual({ seen: 'half', ended: false, failed: false });
  });
});

describe('events', () => {
  test('come in order, and nothing follows the exit', async () => {
    const execution = run(greet);
    expect(await events(execution)).toEqual([
      'started 42',
      'stdout out ',
      'stderr err',
      'stdout more',
      'exited 3 null',
    ]);
    expect(await execution).toMatchObject({ stdout: '', stderr: '', exitCode: 3 });
  });

  test('can be iterated over once', async () => {
    const execution = run(greet);
    await events(execution);
    expect((await rejection(events(execution))).code).toBe('ERR_INVALID_CONFIG');
  });

  test('stop the program while nobody asks for the next', async () => {
    const counter = { blocks: 0 };
    const iterator = run(flood(counter))[Symbol.asyncIterator]();
    for (let count = 0; count < 5; count += 1) await iterator.next();
    await sleep(300);
    const stalled = counter.blocks;
    await sleep(200);
    expect(counter.blocks).toBe(stalled);
    await iterator.return();
  });

  test('left early kill the program', async () => {
    const counter = { blocks: 0 };
    const execution = run(flood(counter));
    for await (const event of execution) if (event.type === 'stdout') break;
    expect(await execution).toMatchObject({ signal: 'SIGKILL' });
  });

  test('throw the error of a program that does not start', async () => {
    const execution = run(async (agent) => {
      await agent.send({ $case: 'failed', value: { kind: 4, errno: 2, message: 'chdir' } });
    });
    const error = await rejection<ExecError>(events(execution));
    expect(error).toMatchObject({ code: 'ERR_EXEC_FAILED', kind: 'bad_cwd', errno: 'ENOENT' });
  });
});

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
