/** What the types promise. Checked by the compiler, with the rest of the tests. */
import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { expectTypeOf } from 'vitest';
import type {
  ExecError,
  ExecEvent,
  ExecResult,
  Execution,
  Sandbox,
  SandboxOptions,
  StopResult,
} from '../../lib/index.js';
import type { Machine, MachineConfig, MachineExit } from '../../lib/machine/index.js';

declare const sandbox: Sandbox;
declare const machine: Machine;

// A result holds strings, or bytes when they were asked for.
expectTypeOf(sandbox.exec('ls')).toEqualTypeOf<Execution<string>>();
expectTypeOf(sandbox.exec('ls', ['-l'], { encoding: 'utf8' })).toEqualTypeOf<Execution<string>>();
expectTypeOf(sandbox.exec('ls', [], { encoding: 'buffer' })).toEqualTypeOf<Execution<Uint8Array>>();
expectTypeOf(sandbox.shell('ls', { encoding: 'buffer' })).toEqualTypeOf<Execution<Uint8Array>>();
expectTypeOf<Awaited<Execution>>().toEqualTypeOf<ExecResult<string>>();
expectTypeOf<Awaited<Execution<Uint8Array>>['stdout']>().toEqualTypeOf<Uint8Array>();

// An execution is promise, streams and events in one.
expectTypeOf<Execution>().toExtend<PromiseLike<ExecResult>>();
expectTypeOf<Execution>().toExtend<AsyncIterable<ExecEvent>>();
expectTypeOf<Execution>().toExtend<AsyncDisposable>();
expectTypeOf<Execution['stdin']>().toEqualTypeOf<Writable | null>();
expectTypeOf<Execution['stdout']>().toEqualTypeOf<Readable>();
// With a terminal there is no stderr.
expectTypeOf<Execution['stderr']>().toEqualTypeOf<Readable | null>();
expectTypeOf<Extract<ExecEvent, { type: 'stdout' }>['data']>().toEqualTypeOf<Uint8Array>();

// Lifecycle objects can be disposed of.
expectTypeOf<Sandbox>().toExtend<AsyncDisposable>();
expectTypeOf<Machine>().toExtend<AsyncDisposable>();
expectTypeOf(sandbox.stop()).resolves.toEqualTypeOf<StopResult>();
expectTypeOf(machine.stop({ timeoutMs: 1 })).resolves.toEqualTypeOf<MachineExit>();
expectTypeOf(machine.connectVsock(1)).resolves.toEqualTypeOf<Socket>();

// Events are typed.
machine.on('exit', (exit) => expectTypeOf(exit).toEqualTypeOf<MachineExit>());
machine.on('console-overflow', (bytes) => expectTypeOf(bytes).toEqualTypeOf<number>());

// Options: none is required of a sandbox, three are of a machine.
expectTypeOf<Record<never, never>>().toExtend<SandboxOptions>();
expectTypeOf<Parameters<typeof Sandbox.create>[0]>().toEqualTypeOf<SandboxOptions | undefined>();
expectTypeOf<{
  kernel: { path: string };
  vcpus: number;
  memoryMib: number;
}>().toExtend<MachineConfig>();
expectTypeOf<{ vcpus: number; memoryMib: number }>().not.toExtend<MachineConfig>();

// Errors have a closed set of codes.
expectTypeOf<ExecError['code']>().toEqualTypeOf<
  | 'ERR_EXEC_FAILED'
  | 'ERR_EXEC_TIMEOUT'
  | 'ERR_EXEC_ABORTED'
  | 'ERR_EXEC_STDIN'
  | 'ERR_NOT_A_TERMINAL'
  | 'ERR_TERMINAL'
>();

// @ts-expect-error What is not built is no option.
({ disks: 1024 }) satisfies SandboxOptions;
// @ts-expect-error A misspelt option is none.
sandbox.exec('ls', [], { timeout: 1 });
// @ts-expect-error An event of another name is none.
machine.on('exits', () => {});
