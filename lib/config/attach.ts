/** Options of `sandbox.attach` and `sandbox.attachShell`. */
import type { ReadStream, WriteStream } from 'node:tty';
import { type ExecOptions, parseExecOptions, type ResolvedExecOptions } from './exec.js';
import { parseConfig } from './parse.js';
import * as z from './zod.js';

const DEFAULT_DETACH_KEYS = 'ctrl-]';
const MAX_DETACH_KEYS = 16;
const CONTROL_PREFIX = 'ctrl-';
/** Ctrl clears the upper bits of these, and of the letters. */
const CONTROLS = '@[\\]^_';
const CONTROL_MASK = 0x1f;

/** Such as `process.stdin`. Streams that Node makes of a descriptor do not tell it: pass that. */
export type TerminalInput = (ReadStream & { fd: number }) | number;
/** Such as `process.stdout`. */
export type TerminalOutput = (WriteStream & { fd: number }) | number;

export interface AttachOptions
  extends Pick<ExecOptions, 'cwd' | 'env' | 'user' | 'timeoutMs' | 'signal' | 'rlimits'> {
  /**
   * What leaves the program running and ends the attachment: keys, separated by commas, each a
   * character or `ctrl-` and one of `a`–`z`, `@`, `[`, `\`, `]`, `^`, `_`. Default `ctrl-]`; empty
   * for none.
   */
  detachKeys?: string | undefined;
  /** The terminal to read from; default `process.stdin`. */
  input?: TerminalInput | undefined;
  /** The terminal to write to; default `process.stdout`. */
  output?: TerminalOutput | undefined;
  /** Called when the detach keys were typed, before the attachment resolves to 0. */
  onDetach?: ((pid: number) => void) | undefined;
}

export interface ResolvedAttachOptions {
  exec: ResolvedExecOptions;
  detachKeys: Buffer;
  input: TerminalInput | undefined;
  output: TerminalOutput | undefined;
  onDetach: ((pid: number) => void) | undefined;
}

function toKey(name: string): number | undefined {
  if (name.length === 1) {
    const code = name.charCodeAt(0);
    return code > 0x20 && code < 0x7f ? code : undefined;
  }
  const key = name.slice(CONTROL_PREFIX.length);
  if (!name.toLowerCase().startsWith(CONTROL_PREFIX) || key.length !== 1) return undefined;
  return /[a-z]/i.test(key) || CONTROLS.includes(key)
    ? key.charCodeAt(0) & CONTROL_MASK
    : undefined;
}

const toKeys = (text: string): (number | undefined)[] =>
  text === '' ? [] : text.split(',').map(toKey);

function isTerminal(value: unknown): boolean {
  const fd = typeof value === 'object' && value !== null && 'fd' in value ? value.fd : value;
  return typeof fd === 'number' && Number.isInteger(fd) && fd >= 0;
}

const attachOptions = z.strictObject({
  detachKeys: z
    ._default(
      z.string().check(
        z.refine(
          (text) => toKeys(text).every((key) => key !== undefined),
          'must be keys separated by commas, each a character or "ctrl-" and a key, such as "ctrl-p,ctrl-q"',
        ),
        z.refine(
          (text) => toKeys(text).length <= MAX_DETACH_KEYS,
          `has over ${MAX_DETACH_KEYS} keys`,
        ),
      ),
      DEFAULT_DETACH_KEYS,
    )
    .check(z.describe('keys that detach')),
  input: z
    .optional(z.custom<TerminalInput>(isTerminal, 'must be a descriptor, or a stream with its fd'))
    .check(z.describe('terminal to read from')),
  output: z
    .optional(z.custom<TerminalOutput>(isTerminal, 'must be a descriptor, or a stream with its fd'))
    .check(z.describe('terminal to write to')),
  onDetach: z
    .optional(
      z.custom<(pid: number) => void>((value) => typeof value === 'function', 'must be a function'),
    )
    .check(z.describe('told of a detachment')),
});

export function parseAttachOptions(options: unknown): ResolvedAttachOptions {
  const given = typeof options === 'object' && options !== null ? options : {};
  const { cwd, env, user, timeoutMs, signal, rlimits, ...own } = given as AttachOptions;
  const { detachKeys, input, output, onDetach } = parseConfig(
    attachOptions,
    options === undefined || options === given ? own : options,
    'invalid attach options',
  );
  return {
    // The program's side: nothing is captured, and the keyboard is not ours.
    exec: parseExecOptions({
      cwd,
      env,
      user,
      timeoutMs,
      signal,
      rlimits,
      tty: true,
      stdin: 'null',
      maxBuffer: 0,
    }),
    detachKeys: Buffer.from(toKeys(detachKeys) as number[]),
    input,
    output,
    onDetach,
  };
}
