/** Options of `sandbox.exec` and `sandbox.shell`. */

import { ConfigError } from '../errors.js';
import {
  abortSignal,
  absoluteGuestPath,
  cleanText,
  environment,
  limitMs,
  nonEmptyText,
} from './common.js';
import { parseConfig } from './parse.js';
import { type ResolvedRlimit, type Rlimit, type RlimitName, rlimits } from './rlimits.js';
import * as z from './zod.js';

const DEFAULT_MAX_BUFFER = 16 * 1024 * 1024;
/** A longer result would not fit in a string. */
const MAX_MAX_BUFFER = 512 * 1024 * 1024 - 24;
/** The guest's kernel takes no more for arguments and environment together. */
const MAX_COMMAND_BYTES = 2 * 1024 * 1024;

const DEFAULT_SIZE: TerminalSize = { rows: 24, cols: 80 };
const MAX_SIDE = 65_535;

export type StdinSource = string | Uint8Array | AsyncIterable<Uint8Array>;

export interface ExecOptions {
  /** Working directory, absolute; the sandbox's `workdir` when absent. */
  cwd?: string | undefined;
  /** Added to the sandbox's environment. */
  env?: Record<string, string> | undefined;
  /** `name`, `uid`, `name:group` or `uid:gid`; the sandbox's `user` when absent. */
  user?: string | undefined;
  /**
   * `null` (default): /dev/null. `pipe` (default with `tty`): write to `execution.stdin`. Else what
   * stdin holds.
   */
  stdin?: 'null' | 'pipe' | StdinSource | undefined;
  /** Kill the whole process group after this long, in ms. */
  timeoutMs?: number | undefined;
  /** Kill the whole process group on abort. */
  signal?: AbortSignal | undefined;
  /** `utf8` (default): the result holds strings. `buffer`: bytes. */
  encoding?: 'utf8' | 'buffer' | undefined;
  /** Bytes kept of each of stdout and stderr in a result; default 16 MiB. */
  maxBuffer?: number | undefined;
  /** Resource limits: `{ nofile: 256, core: 0, as: { soft: 2 ** 30, hard: Infinity } }`. */
  rlimits?: Partial<Record<RlimitName, Rlimit>> | undefined;
  /** A terminal instead of pipes, of 24 rows and 80 columns unless a size is given. */
  tty?: boolean | TerminalSize | undefined;
}

export interface TerminalSize {
  rows: number;
  cols: number;
}

export interface ResolvedExecOptions {
  cwd?: string | undefined;
  env: Record<string, string>;
  user?: string | undefined;
  stdin: 'null' | 'pipe' | { source: StdinSource };
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
  encoding: 'utf8' | 'buffer';
  maxBuffer: number;
  rlimits: ResolvedRlimit[];
  /** Absent: pipes. */
  tty?: TerminalSize | undefined;
}

function isStdinSource(value: unknown): value is StdinSource {
  if (typeof value === 'string' || value instanceof Uint8Array) return true;
  return typeof value === 'object' && value !== null && Symbol.asyncIterator in value;
}

const side = z.int().check(z.gte(1), z.lte(MAX_SIDE, 'the kernel counts no further'));
const terminalSize: z.ZodMiniType<TerminalSize> = z.strictObject({ rows: side, cols: side });

const execOptions = z.strictObject({
  cwd: z.optional(absoluteGuestPath).check(z.describe('working directory')),
  env: z._default(environment, {}).check(z.describe('environment, added to the sandbox’s')),
  user: z.optional(nonEmptyText).check(z.describe('user')),
  stdin: z
    .optional(
      z.custom<StdinSource>(
        isStdinSource,
        "must be 'null', 'pipe', text, bytes or an async iterable",
      ),
    )
    .check(z.describe('standard input')),
  timeoutMs: z.optional(limitMs).check(z.describe('limit in ms')),
  signal: z.optional(abortSignal).check(z.describe('kills on abort')),
  encoding: z._default(z.enum(['utf8', 'buffer']), 'utf8').check(z.describe('form of the result')),
  maxBuffer: z
    ._default(
      z.int().check(z.gte(0), z.lte(MAX_MAX_BUFFER, 'a longer string cannot be')),
      DEFAULT_MAX_BUFFER,
    )
    .check(z.describe('bytes kept of each stream')),
  tty: z._default(z.union([z.boolean(), terminalSize]), false).check(z.describe('terminal')),
  rlimits: z._default(rlimits, []).check(z.describe('resource limits')),
});

const command = z.strictObject({
  file: nonEmptyText,
  args: z.array(cleanText),
});

export function parseExecOptions(input: unknown): ResolvedExecOptions {
  const { tty, stdin, ...rest } = parseConfig(
    execOptions,
    input === undefined ? {} : input,
    'invalid exec options',
  );
  const size = tty === true ? DEFAULT_SIZE : tty;
  // A terminal without a keyboard would be the exception.
  const source = stdin ?? (size === false ? 'null' : 'pipe');
  return {
    ...rest,
    stdin: source === 'null' || source === 'pipe' ? source : { source },
    ...(size === false ? {} : { tty: size }),
  };
}

export function parseTerminalSize(rows: unknown, cols: unknown): TerminalSize {
  return parseConfig(terminalSize, { rows, cols }, 'invalid terminal size');
}

/** Checks a command and returns its argv. */
export function parseCommand(file: unknown, args: unknown): string[] {
  const parsed = parseConfig(command, { file, args }, 'invalid command');
  const argv = [parsed.file, ...parsed.args];
  checkCommandBytes(argv);
  return argv;
}

/** Arguments or environment strings that no `execve` would take. */
export function checkCommandBytes(strings: readonly string[]): void {
  const bytes = strings.reduce((sum, text) => sum + Buffer.byteLength(text) + 1, 0);
  if (bytes <= MAX_COMMAND_BYTES) return;
  throw new ConfigError(
    'ERR_INVALID_CONFIG',
    `invalid command: arguments and environment have ${bytes} bytes, but must have at most ` +
      `${MAX_COMMAND_BYTES}: the guest's kernel takes no more`,
    { context: { bytes, limit: MAX_COMMAND_BYTES } },
  );
}
