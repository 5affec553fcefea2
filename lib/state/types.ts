/** How a sandbox is and how it ended, in words that are also written to disk. */

/** `draining`: it is about to end; what runs may finish, and nothing new is started. */
export type SandboxStatus =
  | 'created'
  | 'starting'
  | 'running'
  | 'draining'
  | 'paused'
  | 'stopped'
  | 'crashed';

/**
 * Why a sandbox ended. `host_exit`: the process that it ran in ended without
 * stopping it. `boot_failed`: it was started again and did not become ready.
 */
export type StopReason =
  | 'completed'
  | 'requested'
  | 'killed'
  | 'idle_timeout'
  | 'max_duration'
  | 'drained'
  | 'guest_poweroff'
  | 'guest_reset'
  | 'guest_panic'
  | 'machine_fault'
  | 'agent_lost'
  | 'boot_failed'
  | 'host_exit';

/** How a sandbox ended. */
export interface StopResult {
  name: string;
  status: 'stopped' | 'crashed';
  /** Of the workload, where the sandbox runs one; else `null`. */
  exitCode: number | null;
  signal: string | null;
  reason: StopReason;
  observedAt: Date;
}

/** True for a status that lasts until somebody starts the sandbox again. */
export function isOver(status: SandboxStatus): status is StopResult['status'] {
  return status === 'stopped' || status === 'crashed';
}
