/**
 * The workload's own init: PID 1 of a PID namespace inside the guest, in which everything that
 * starts later runs too. The agent stays PID 1 of the machine. When the init ends, so does the
 * sandbox.
 */
import type { ResolvedInit } from '../config/init.js';
import { ExecError } from '../errors.js';
import type { Machine } from '../machine/machine.js';
import { AGENT_PORT } from '../rpc/agent-client.js';
import { type AgentExecEvent, ExecChannel, type ExecStart } from '../rpc/exec-channel.js';
import { failedToStart } from './exec-errors.js';

type Exited = Extract<AgentExecEvent, { type: 'exited' }>;
export type InitExit = Pick<Exited, 'exitCode' | 'signal'>;

/** No other command has it: they count from 1. */
export const INIT_EXEC_ID = 0n;

export interface InitProcess {
  /** Its end; `undefined` when the machine ended first. */
  ended: Promise<InitExit | undefined>;
}

export interface InitContext {
  env: Readonly<Record<string, string>>;
  restricted: boolean;
  /** A promise where it takes a while. */
  onOutput: (stream: 'stdout' | 'stderr', data: Uint8Array) => Promise<void> | undefined;
}

/** Starts the first of the candidates that exists. Throws what a command throws that cannot start. */
export async function startInit(
  machine: Machine,
  init: ResolvedInit,
  context: InitContext,
): Promise<InitProcess> {
  // `container` is how an init learns that it is not on bare metal (systemd.io/CONTAINER_INTERFACE).
  const env = Object.entries({ container: 'embervm', ...context.env, ...init.env });
  let last: unknown;
  for (const program of init.candidates) {
    const channel = await ExecChannel.start(await machine.connectVsock(AGENT_PORT, {}), {
      execId: INIT_EXEC_ID,
      args: [program, ...init.args],
      env: env.map(([key, value]) => `${key}=${value}`),
      cwd: '/',
      stdin: false,
      restricted: context.restricted,
      init: true,
    } satisfies ExecStart);
    try {
      await started(channel, program);
      return { ended: follow(channel, context.onOutput) };
    } catch (error) {
      channel.close();
      if (!(error instanceof ExecError && error.kind === 'not_found')) throw error;
      last = error;
    }
  }
  throw last;
}

/** That of a guest which goes on from a snapshot or a fork, where it runs already. */
export async function takeUpInit(
  machine: Machine,
  onOutput: InitContext['onOutput'],
): Promise<InitProcess> {
  const connection = await machine.connectVsock(AGENT_PORT, {});
  const channel = await ExecChannel.takeUp(connection, INIT_EXEC_ID);
  try {
    await channel.receive();
  } catch (error) {
    channel.close();
    throw error;
  }
  return { ended: follow(channel, onOutput) };
}

async function started(channel: ExecChannel, program: string): Promise<void> {
  const event = await channel.receive();
  if (event?.type === 'failed') throw failedToStart(program, event);
}

/** Its output is always taken: an init that waits for a reader would take no care of anybody. */
async function follow(
  channel: ExecChannel,
  onOutput: InitContext['onOutput'],
): Promise<InitExit | undefined> {
  try {
    for (;;) {
      const event = await channel.receive();
      if (event?.type === 'stdout' || event?.type === 'stderr') {
        await onOutput(event.type, event.data);
      }
      if (event?.type === 'exited') return { exitCode: event.exitCode, signal: event.signal };
      if (event === undefined) return undefined;
    }
  } catch {
    // The machine has gone, and its end says why.
    return undefined;
  } finally {
    channel.close();
  }
}
