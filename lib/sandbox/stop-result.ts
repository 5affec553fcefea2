/** What the end of a machine means for its sandbox. */
import { SandboxError } from '../errors.js';
import type { MachineExit } from '../machine/types.js';
import type { StopReason, StopResult } from '../state/types.js';
import type { InitExit } from './init.js';
import { signalName } from './signals.js';

/** What we did to the machine before it ended, or the reason for which we did it. */
export type EndRequest =
  | 'stop'
  | 'kill'
  | 'agent_lost'
  | 'idle_timeout'
  | 'max_duration'
  | 'drained'
  | 'completed'
  | undefined;

const MAX_SHOWN_TAIL = 2000;
const crashes: readonly StopReason[] = [
  'guest_panic',
  'machine_fault',
  'agent_lost',
  'boot_failed',
  'host_exit',
];

export function stopReason(exit: MachineExit, request: EndRequest): StopReason {
  switch (exit.reason) {
    case 'panic':
      // The kernel panics when its first process dies, and that is the agent.
      return 'guest_panic';
    case 'fault':
      return 'machine_fault';
    case 'killed':
      // A stop that took too long ended in a kill, and whoever stopped it is to know.
      return request === undefined || request === 'stop' || request === 'kill' ? 'killed' : request;
    case 'poweroff':
      return asked(request) ?? 'guest_poweroff';
    case 'reset':
      return asked(request) ?? 'guest_reset';
  }
}

function asked(request: EndRequest): StopReason | undefined {
  return request === 'stop' || request === 'kill' ? 'requested' : request;
}

export function stopResult(name: string, reason: StopReason, workload?: InitExit): StopResult {
  return {
    name,
    status: crashes.includes(reason) ? 'crashed' : 'stopped',
    exitCode: workload?.exitCode ?? null,
    signal: workload?.signal == null ? null : signalName(workload.signal),
    reason,
    observedAt: new Date(),
  };
}

/** For what was going on in a sandbox when it ended: of a crash, or of an end that was wanted. */
export function sandboxGone(result: StopResult, tail: string, message: string): SandboxError {
  return new SandboxError(
    result.status === 'crashed' ? 'ERR_SANDBOX_CRASHED' : 'ERR_SANDBOX_STOPPED',
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
