/** Logs of a sandbox, whether it runs here, elsewhere or not at all. */
import {
  type LogOptions,
  type LogStreamOptions,
  parseLogOptions,
  parseLogStreamOptions,
} from '../config/logs.js';
import { waitFor } from '../machine/wait.js';
import type { LogEntry } from '../state/logs/entry.js';
import { type LogFollow, type LogOfSandbox, readLog, streamLog } from '../state/logs/reader.js';
import type { LogWriter } from '../state/logs/writer.js';

/** How often is looked for what another process may have written. */
const POLL_MS = 200;

/** Where the entries come from. */
export interface LogSourceOf {
  log: LogOfSandbox;
  /** Of a sandbox that runs here and logs. */
  writer: LogWriter | undefined;
  /** Nothing is written any more. */
  isOver(): Promise<boolean>;
}

export async function readLogs(
  from: LogSourceOf,
  input: LogOptions | undefined,
): Promise<LogEntry[]> {
  const options = parseLogOptions(input);
  await from.writer?.flush();
  return readLog(from.log, options);
}

/** Options are checked at once, and not when the first entry is asked for. */
export function streamLogs(
  from: LogSourceOf,
  input: LogStreamOptions | undefined,
): AsyncGenerator<LogEntry, void, void> {
  const options = parseLogStreamOptions(input);
  const { writer } = from;
  const follow: LogFollow = {
    isOver: async () => {
      const over = await from.isOver();
      await writer?.flush();
      return over;
    },
    more: async (signal) => {
      const more = new Promise<void>((resolve) => writer?.onMore(resolve));
      await waitFor(more, { what: 'reading the logs', timeoutMs: POLL_MS, signal });
    },
  };
  return streamLog(from.log, options, follow);
}
