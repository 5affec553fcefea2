/** A line of a log, and the place after it. */
import { isUtf8 } from 'node:buffer';
import type { LogLevel, LogSource } from '../../config/logs.js';
import { SandboxError } from '../../errors.js';

/** Something that a process wrote, or that happened to the sandbox. */
export interface LogEntry {
  timestamp: Date;
  source: LogSource;
  /** Which command wrote it; `null` for what is about the sandbox. */
  execId: string | null;
  /** Of what is about the sandbox; else `null`. */
  level: LogLevel | null;
  data: Uint8Array;
  /** `data` as text. */
  text: string;
  /** For `logStream({ cursor })`, which goes on after this entry. */
  cursor: string;
}

/** What is written. */
export interface NewEntry {
  source: LogSource;
  execId?: bigint;
  level?: LogLevel;
  data: Uint8Array | string;
}

/** A place in the logs of one sandbox: a file, and an offset in it. */
export interface LogPlace {
  segment: number;
  offset: number;
}

/** One line, with its end. */
export function formatEntry({ source, execId, level, data }: NewEntry, now: number): string {
  // With a NUL it is not text either, and would be six characters a byte in JSON.
  const isText = typeof data === 'string' || (isUtf8(data) && !data.includes(0));
  return `${JSON.stringify({
    t: now,
    s: source,
    ...(execId === undefined ? {} : { e: String(execId) }),
    ...(level === undefined ? {} : { l: level }),
    // Bytes that are no text must come back as they were.
    ...(isText ? { d: toText(data) } : { b: Buffer.from(data).toString('base64') }),
  })}\n`;
}

const sources: readonly unknown[] = ['stdout', 'stderr', 'output', 'system'];

/** `undefined` for what no whole line of ours can be. */
export function parseEntry(line: string, cursor: () => string): LogEntry | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { t, s, e, l, d, b } = value as Record<string, unknown>;
  if (typeof t !== 'number' || !sources.includes(s)) return undefined;
  if (typeof d !== 'string' && typeof b !== 'string') return undefined;
  const data = typeof d === 'string' ? Buffer.from(d) : Buffer.from(b as string, 'base64');
  return {
    timestamp: new Date(t),
    source: s as LogSource,
    execId: typeof e === 'string' ? e : null,
    level: typeof l === 'string' ? (l as LogLevel) : null,
    data,
    text: typeof d === 'string' ? d : data.toString('utf8'),
    cursor: cursor(),
  };
}

/** `id` is that of the sandbox: a place in the logs of another one of its name is none in these. */
export function formatCursor(id: string, { segment, offset }: LogPlace): string {
  return Buffer.from(JSON.stringify([id, segment, offset])).toString('base64url');
}

export function parseCursor(id: string, cursor: string): LogPlace {
  try {
    const value: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    const [of, segment, offset] = value as unknown[];
    if (of === id && isCount(segment) && isCount(offset)) return { segment, offset };
  } catch {
    // It is refused below.
  }
  throw lostCursor('the cursor is not one of the logs of this sandbox');
}

/** `ERR_LOG_CURSOR`: reading cannot go on where it was. */
export function lostCursor(why: string): SandboxError {
  return new SandboxError('ERR_LOG_CURSOR', `${why}. Begin anew, without a cursor`);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function toText(data: Uint8Array | string): string {
  if (typeof data === 'string') return data;
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('utf8');
}
