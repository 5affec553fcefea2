/** What the end of a machine means for its sandbox. */
import { SandboxError } from '../errors.js';
import type { MachineExit } from '../machine/types.js';
import type { StopReason, StopResult } from './types.js';

/** What we did to the machine before it ended. */
export type EndRequest = 'stop' | 'kill' | 'agent_lost' | undefined;

const MAX_SHOWN_TAIL = 2000;

export function stopReason(exit: MachineExit, request: EndRequest): StopReason {
  switch (exit.reason) {
    case 'panic':
      // The kernel panics when its first process dies, and that is the agent.
      return 'guest_panic';
    case 'fault':
      return 'machine_fault';
    case 'killed':
      return request === 'agent_lost' ? 'agent_lost' : 'killed';
    case 'poweroff':
      return request === undefined ? 'guest_poweroff' : 'requested';
    case 'reset':
      return request === undefined ? 'guest_reset' : 'requested';
  }
}

export function stopResult(name: string, reason: StopReason): StopResult {
  const crashed = reason === 'guest_panic' || reason === 'machine_fault' || reason === 'agent_lost';
  return {
    name,
    status: crashed ? 'crashed' : 'stopped',
    exitCode: null,
    signal: null,
    reason,
    observedAt: new Date(),
  };
}

/** For what was going on in a sandbox when it ended. */
export function sandboxGone(result: StopResult, tail: string, message: string): SandboxError {
  return new SandboxError(
    'ERR_SANDBOX_CRASHED',
    `the sandbox "${result.name}" ended (${result.reason}): ${message}${shownTail(tail)}`,
    {
      reason: result.reason,
      consoleTail: tail,
      context: { name: result.name, reason: result.reason },
    },
  );
}

/** The console's last lines as the end of an error message. */
export function shownTail(tail: string): string {
  const text = tail.trimEnd().slice(-MAX_SHOWN_TAIL);
  return text === '' ? '. The console is empty' : `. The console ends with:\n${text}`;
}
