/**
 * Appends to a log without holding anybody up: lines are collected while the
 * ones before them are written. Only who writes faster than the disk takes it,
 * for megabytes, has to wait.
 */
import { type FileHandle, mkdir, open, unlink } from 'node:fs/promises';
import type { LogLevel } from '../../config/logs.js';
import { formatEntry, type NewEntry } from './entry.js';
import { listSegments, segmentPath } from './segments.js';

const OWNER_ONLY_DIRECTORY = 0o700;
const OWNER_ONLY_FILE = 0o600;
const NEWLINE = 0x0a;

export interface LogLimits {
  /** Size at which a file is followed by the next. */
  segmentBytes: number;
  /** How many files are kept. */
  segments: number;
  /** What may wait to be written before whoever writes more has to wait. */
  pendingBytes: number;
}

const MIB = 1024 * 1024;
export const defaultLogLimits: LogLimits = {
  segmentBytes: 10 * MIB,
  segments: 3,
  pendingBytes: 2 * MIB,
};

const levels: readonly LogLevel[] = ['error', 'warn', 'info', 'debug', 'trace'];

interface Segment {
  number: number;
  file: FileHandle;
  size: number;
}

export class LogWriter {
  readonly directory: string;
  readonly #limits: LogLimits;
  readonly #level: number;
  #pending: string[] = [];
  #pendingLength = 0;
  #flushing: Promise<void> | undefined;
  #segment: Segment | undefined;
  /** Lines that could not be written, since the last that could. */
  #lost = 0;
  #closed = false;
  #waiters: (() => void)[] = [];

  constructor(directory: string, level: LogLevel, limits: LogLimits = defaultLogLimits) {
    this.directory = directory;
    this.#level = levels.indexOf(level);
    this.#limits = limits;
  }

  /** A promise where too much waits already: whoever can wait shall. */
  write(entry: NewEntry): Promise<void> | undefined {
    if (this.#closed) return undefined;
    const line = formatEntry(entry, Date.now());
    this.#pending.push(line);
    this.#pendingLength += line.length;
    this.#flushing ??= this.#flush();
    return this.#pendingLength > this.#limits.pendingBytes ? this.#flushing : undefined;
  }

  /** A line about the sandbox, where its level is wanted. */
  system(level: LogLevel, text: string): void {
    if (levels.indexOf(level) <= this.#level)
      void this.write({ source: 'system', level, data: text });
  }

  /** Resolves when everything written so far can be read. */
  async flush(): Promise<void> {
    while (this.#flushing !== undefined) await this.#flushing;
  }

  /** Calls `wake` once, when there is more to read or nothing will come any more. */
  onMore(wake: () => void): void {
    if (this.#closed) wake();
    else this.#waiters.push(wake);
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.flush();
    await this.#segment?.file.close().catch(() => {});
    this.#segment = undefined;
    this.#wake();
  }

  async #flush(): Promise<void> {
    // What is written in this turn of the event loop goes to disk as one.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#pending.length > 0) {
      const lines = this.#pending;
      this.#pending = [];
      this.#pendingLength = 0;
      try {
        if (this.#lost > 0) lines.unshift(this.#gap());
        await this.#append(lines);
        this.#lost = 0;
      } catch {
        // A full disk must not end what runs in the sandbox; the gap is told where there is room.
        this.#lost += lines.length;
        await this.#segment?.file.close().catch(() => {});
        this.#segment = undefined;
      }
      this.#wake();
    }
    this.#flushing = undefined;
  }

  async #append(lines: string[]): Promise<void> {
    let batch: Buffer[] = [];
    let bytes = 0;
    for (const line of lines) {
      const data = Buffer.from(line);
      const segment = await this.#current();
      if (
        segment.size + bytes > 0 &&
        segment.size + bytes + data.length > this.#limits.segmentBytes
      ) {
        await this.#writeOut(segment, batch, bytes);
        await this.#next(segment);
        batch = [];
        bytes = 0;
      }
      batch.push(data);
      bytes += data.length;
    }
    await this.#writeOut(await this.#current(), batch, bytes);
  }

  async #writeOut(segment: Segment, batch: Buffer[], bytes: number): Promise<void> {
    if (bytes === 0) return;
    const data = batch.length === 1 && batch[0] !== undefined ? batch[0] : Buffer.concat(batch);
    let done = 0;
    while (done < bytes) {
      const { bytesWritten } = await segment.file.write(data, done, bytes - done);
      done += bytesWritten;
      segment.size += bytesWritten;
    }
  }

  async #current(): Promise<Segment> {
    if (this.#segment !== undefined) return this.#segment;
    await mkdir(this.directory, { recursive: true, mode: OWNER_ONLY_DIRECTORY });
    const last = (await listSegments(this.directory)).at(-1);
    this.#segment = await this.#open(last ?? 1);
    return this.#segment;
  }

  async #next(segment: Segment): Promise<void> {
    await segment.file.close();
    this.#segment = undefined;
    this.#segment = await this.#open(segment.number + 1);
    const all = await listSegments(this.directory);
    for (const old of all.slice(0, Math.max(0, all.length - this.#limits.segments))) {
      await unlink(segmentPath(this.directory, old)).catch(() => {});
    }
  }

  async #open(number: number): Promise<Segment> {
    const file = await open(segmentPath(this.directory, number), 'a+', OWNER_ONLY_FILE);
    try {
      const { size } = await file.stat();
      const segment = { number, file, size };
      // Whoever wrote here last may have died in the middle of a line: it ends here.
      if (!(await endsWithLine(segment))) await this.#writeOut(segment, [Buffer.from('\n')], 1);
      return segment;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  #gap(): string {
    const data = `${this.#lost} log entries could not be written`;
    return formatEntry({ source: 'system', level: 'error', data }, Date.now());
  }

  #wake(): void {
    for (const wake of this.#waiters.splice(0)) wake();
  }
}

async function endsWithLine({ file, size }: Segment): Promise<boolean> {
  if (size === 0) return true;
  const last = Buffer.alloc(1);
  await file.read(last, 0, 1, size - 1);
  return last[0] === NEWLINE;
}
