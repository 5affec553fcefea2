import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { ExecError } from '../../lib/errors.js';
import type { ExecEvent, ExecResult } from '../../lib/sandbox/types.js';
import { rejection } from '../helpers/rejection.js';
import type { AgentSide } from '../helpers/scripted-agent.js';
import { BLOCK, flood, greet, run, watchExecutions } from '../helpers/scripted-execution.js';

watchExecutions();

async function events(execution: AsyncIterable<ExecEvent>): Promise<string[]> {
  const seen: string[] = [];
  for await (const event of execution) {
    if (event.type === 'started') seen.push(`started ${event.pid}`);
    else if (event.type === 'exited') seen.push(`exited ${event.exitCode} ${event.signal}`);
    else seen.push(`${event.type} ${Buffer.from(event.data)}`);
  }
  return seen;
}

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
