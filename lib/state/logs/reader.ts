/** Reads a log that somebody may be writing to, from any place in it. */
import { type FileHandle, open } from 'node:fs/promises';
import type { ResolvedLogOptions, ResolvedLogStreamOptions } from '../../config/logs.js';
import { abortedError, SandboxError } from '../../errors.js';
import {
  formatCursor,
  type LogEntry,
  type LogPlace,
  lostCursor,
  parseCursor,
  parseEntry,
} from './entry.js';
import { listSegments, segmentPath } from './segments.js';

const CHUNK_BYTES = 256 * 1024;
const NEWLINE = 0x0a;
/** A line that is longer is none of ours. */
const MAX_LINE_BYTES = 4 * 1024 * 1024;
const MAX_ATTEMPTS = 5;

export interface LogOfSandbox {
  directory: string;
  /** Of the sandbox; part of every cursor. */
  id: string;
}

/** How a reader learns that there is more, or never will be. */
export interface LogFollow {
  /** Asked before everything is read once more: nothing will be written after that. */
  isOver(): Promise<boolean>;
  /** Resolves when it may be worth to look again. */
  more(signal: AbortSignal | undefined): Promise<void>;
}

/** Everything that is wanted, in the order in which it was written. */
export async function readLog(log: LogOfSandbox, options: ResolvedLogOptions): Promise<LogEntry[]> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await readOnce(log, options);
    } catch (error) {
      // The first file may be rotated away while it is read; then the log begins with the next.
      const lost = error instanceof SandboxError && error.code === 'ERR_LOG_CURSOR';
      if (!lost || attempt === MAX_ATTEMPTS) throw error;
    }
  }
}

async function readOnce(log: LogOfSandbox, options: ResolvedLogOptions): Promise<LogEntry[]> {
  const { tail } = options;
  let entries: LogEntry[] = [];
  for await (const entry of readFrom(log, await firstPlace(log))) {
    if (!isWanted(entry, options)) continue;
    entries.push(entry);
    // Not one by one: that would move all the others each time.
    if (tail !== undefined && entries.length > 2 * tail + 1000) entries = entries.slice(-tail);
  }
  if (tail === undefined) return entries;
  return tail === 0 ? [] : entries.slice(-tail);
}

export async function* streamLog(
  log: LogOfSandbox,
  options: ResolvedLogStreamOptions,
  follow: LogFollow,
): AsyncGenerator<LogEntry, void, void> {
  const { cursor, signal, until } = options;
  const given = cursor === undefined ? undefined : parseCursor(log.id, cursor);
  let place = given;
  for (;;) {
    if (signal?.aborted) throw abortedError(signal, 'reading the logs');
    const over = !options.follow || Date.now() >= until || (await follow.isOver());
    place ??= await firstPlace(log);
    if (place !== undefined) {
      for await (const entry of readFrom(log, place)) {
        place = parseCursor(log.id, entry.cursor);
        if (isWanted(entry, options)) yield entry;
        if (signal?.aborted) throw abortedError(signal, 'reading the logs');
      }
    }
    if (over) return;
    await follow.more(signal);
  }
}

function isWanted(entry: LogEntry, { since, until, sources }: ResolvedLogOptions): boolean {
  const time = entry.timestamp.getTime();
  return sources.includes(entry.source) && time >= since && time < until;
}

async function firstPlace({ directory }: LogOfSandbox): Promise<LogPlace | undefined> {
  const segment = (await listSegments(directory))[0];
  return segment === undefined ? undefined : { segment, offset: 0 };
}

/** The whole lines after `place`, as far as there are any now. */
async function* readFrom(
  log: LogOfSandbox,
  place: LogPlace | undefined,
): AsyncGenerator<LogEntry, void, void> {
  if (place === undefined) return;
  let { segment, offset } = place;
  for (;;) {
    // Before the file is read: once there is a next one, nothing is added to this one.
    const there = await listSegments(log.directory);
    if (there.length > 0 && !there.includes(segment)) throw rotated();
    yield* readSegment(log, { segment, offset });
    if (!there.some((number) => number > segment)) return;
    segment += 1;
    offset = 0;
  }
}

function rotated(): Error {
  return lostCursor('the entries that come next were rotated away');
}

async function* readSegment(
  log: LogOfSandbox,
  { segment, offset }: LogPlace,
): AsyncGenerator<LogEntry, void, void> {
  const path = segmentPath(log.directory, segment);
  let rest = Buffer.alloc(0);
  let lineStart = offset;
  for (let at = offset; ; ) {
    // Opened for each piece: whoever reads may stop between two, and close nothing.
    const piece = await readPiece(path, at);
    // A line without its end is one that is being written, or was when its writer died.
    if (piece.length === 0) return;
    at += piece.length;
    const data = Buffer.concat([rest, piece]);
    let begin = 0;
    for (let end = data.indexOf(NEWLINE); end !== -1; end = data.indexOf(NEWLINE, begin)) {
      const line = data.toString('utf8', begin, end);
      lineStart += end + 1 - begin;
      begin = end + 1;
      const after = { segment, offset: lineStart };
      const entry = parseEntry(line, () => formatCursor(log.id, after));
      if (entry !== undefined) yield entry;
    }
    rest = data.subarray(begin);
    if (rest.length > MAX_LINE_BYTES) return;
  }
}

/** What is at `offset`, at most a chunk of it; nothing at the end. */
async function readPiece(path: string, offset: number): Promise<Buffer> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') throw rotated();
    throw error;
  }
  try {
    if (offset > (await file.stat()).size) {
      throw lostCursor('the cursor is beyond the end of the logs');
    }
    const { buffer, bytesRead } = await file.read(
      Buffer.allocUnsafe(CHUNK_BYTES),
      0,
      CHUNK_BYTES,
      offset,
    );
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
