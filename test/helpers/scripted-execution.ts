/** Commands against an agent that a script plays; what nobody handles fails the test. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect } from 'vitest';
import { type ExecOptions, parseExecOptions } from '../../lib/config/exec.js';
import { CommandExecution } from '../../lib/sandbox/execution.js';
import { type Script, ScriptedHost } from './scripted-agent.js';

const hosts: ScriptedHost[] = [];
const unhandled: unknown[] = [];
const onUnhandled = (error: unknown): void => {
  unhandled.push(error);
};

/** Registers what closes the hosts after each test. */
export function watchExecutions(): void {
  beforeEach(() => {
    process.on('unhandledRejection', onUnhandled);
  });

  afterEach(async () => {
    for (const host of hosts.splice(0)) for (const socket of host.sockets) socket.destroy();
    await sleep(0);
    process.off('unhandledRejection', onUnhandled);
    expect(unhandled.splice(0)).toEqual([]);
  });
}

export function host(script: Script): ScriptedHost {
  const made = new ScriptedHost(script);
  hosts.push(made);
  return made;
}

export function run(
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

export const BLOCK = Buffer.alloc(64 * 1024, 'x');

/** Writes blocks until the far end is killed or gone; counts what was taken. */
export function flood(counter: { blocks: number }): Script {
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

export const greet: Script = async (agent) => {
  await agent.started(42);
  await agent.stdout('out ');
  await agent.stderr('err');
  await agent.stdout('more');
  await agent.exit(3);
};
