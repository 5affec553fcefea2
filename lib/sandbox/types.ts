/** The public shapes of a sandbox. */
import type { Readable, Writable } from 'node:stream';
import type { BootStage } from '../config/sandbox.js';
import type { GuestMemory } from '../rpc/agent-client.js';

export type { SandboxStatus, StopReason, StopResult } from '../state/types.js';
export type { GuestMemory };

export interface BootReport {
  /** `cold`: its kernel booted; `warm`: from a template; `cached`: its VM was ready and waited. */
  start: 'cold' | 'warm' | 'cached';
  /** In the order in which they ran. */
  stages: { stage: BootStage; durationMs: number }[];
  totalMs: number;
  /** From the creation of the machine to its first instruction, as the addon measures it. */
  machineSetupMs: number;
  guest: {
    kernelRelease: string;
    agentVersion: string;
    /**
     * Guest time from its clock's start to the agent's first instruction, and to its dial; `null`
     * after a warm start.
     */
    agentStartedMs: number | null;
    agentDialledMs: number | null;
  };
}

/** What a sandbox was created from. */
export interface SandboxImage {
  /** As it was asked for. */
  reference: string;
  /** Of its manifest. */
  digest: string;
  entrypoint: string[];
  cmd: string[];
  labels: Record<string, string>;
}

export interface ResizeResult {
  /** What the guest has then, in MiB, where it was asked to resize its memory. */
  memoryMib?: number;
}

export interface Metrics {
  uptimeMs: number;
  cpu: {
    /** CPU time of the virtual CPUs. */
    timeMs: number;
    /** Of that, what the monitor's devices took on their threads. */
    deviceMs: number;
    /**
     * How long the virtual CPUs were halted, each until the last time that it woke; `null` where
     * the host does not count.
     */
    haltedMs: number | null;
    /** With those that can be brought on line. */
    cpus: number;
    /** Of one CPU: since the sample before in a stream, else since the boot. */
    percent: number;
    /** How often a virtual CPU left the guest, also where KVM served it. */
    exits: number;
    /** How often one of them waited for this process to serve a register of a device. */
    deviceExits: number;
    /** Kernel instructions that were emulated; `null` on hosts that run them themselves. */
    emulatedInstructions: number | null;
  };
  memory: {
    /** What the guest has, all in all. */
    limitBytes: number;
    /** Of the guest's memory, what is resident on the host; `null` when it was not counted. */
    residentBytes: number | null;
    /** What the guest says, and it may say anything; `null` when it was not asked or does not answer. */
    guest: GuestMemory | null;
  };
  disk: { readBytes: number; writtenBytes: number };
  /** As the guest sees it. */
  vsock: { receivedBytes: number; sentBytes: number };
  processes: { running: number };
}

export interface ExecResult<Output extends string | Uint8Array = string> {
  /** `null` when a signal ended the program. */
  exitCode: number | null;
  /** Name of that signal, such as `SIGKILL`. */
  signal: string | null;
  /** The exit code is 0. */
  success: boolean;
  stdout: Output;
  stderr: Output;
  durationMs: number;
  timedOut: boolean;
  /** Output beyond `maxBuffer` was dropped. */
  truncated: boolean;
}

export type ExecEvent =
  | { type: 'started'; pid: number }
  | { type: 'stdout'; data: Uint8Array }
  | { type: 'stderr'; data: Uint8Array }
  | { type: 'exited'; exitCode: number | null; signal: string | null };

/**
 * A running command: await it for its result, read its streams, or iterate over its events.
 *
 * - Nothing is read from the guest until one of these is done; the program waits when its pipe is
 *   full. Start, time limit and abort do not depend on it.
 * - Awaiting captures up to `maxBuffer` of each stream and drops the rest.
 * - A stream belongs to whoever touches `stdout` or `stderr`: read it to its end. The result then
 *   has nothing of it, unless the execution was awaited before. What nobody touches is captured.
 * - Iterating takes both streams. Leaving the loop early kills the process group.
 * - When the command fails, its streams close without an `end`; the error is the execution's. An
 *   execution that nobody awaits never raises an unhandled rejection.
 */
export interface Execution<Output extends string | Uint8Array = string>
  extends PromiseLike<ExecResult<Output>>,
    AsyncIterable<ExecEvent>,
    AsyncDisposable {
  readonly pid: Promise<number>;
  /**
   * With `stdin: 'pipe'`, else `null`. End it to let the program see the end; on a terminal that
   * types Ctrl-D.
   */
  readonly stdin: Writable | null;
  readonly stdout: Readable;
  /** `null` with a terminal, which has one output. */
  readonly stderr: Readable | null;
  /** Signals the process group; nothing happens when the program has ended. */
  kill(signal?: NodeJS.Signals | number): Promise<void>;
  /** Sets the size of the terminal; nothing happens when the program has ended. */
  resize(rows: number, cols: number): Promise<void>;
  catch<Other>(
    onRejected: (reason: unknown) => Other | PromiseLike<Other>,
  ): Promise<ExecResult<Output> | Other>;
  finally(onFinally: () => void): Promise<ExecResult<Output>>;
}
