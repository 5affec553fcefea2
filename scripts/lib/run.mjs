// Runs a command with its output in a log file, and tells the caller each line as it comes.
import { spawn } from 'node:child_process';
import { createWriteStream, mkdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { finished } from 'node:stream/promises';
import { Failure } from './failure.mjs';
import { root } from './root.mjs';

const TAIL_LINES = 25;

export const logPath = (name) => join(root, 'build/log', `${name}.log`);

function tail(file) {
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-TAIL_LINES).join('\n');
}

/** Calls `onLine` with every complete, non-empty line of a stream. */
function eachLine(stream, onLine) {
  let rest = '';
  stream.setEncoding('utf8').on('data', (text) => {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop() ?? '';
    for (const line of lines) if (line.trim() !== '') onLine(line);
  });
  stream.on('end', () => rest.trim() !== '' && onLine(rest));
}

/**
 * @param {string} name of the log file
 * @param {string[]} command
 * @param {{ env?: Record<string, string>, cure?: string, append?: boolean, onLine?: (line: string) => void }} options
 * @returns {Promise<string>} the last line that the command wrote to stdout
 */
export async function runLogged(name, command, options = {}) {
  const file = logPath(name);
  mkdirSync(dirname(file), { recursive: true });
  const log = createWriteStream(file, { flags: options.append ? 'a' : 'w' });
  log.write(`$ ${command.join(' ')}\n`);
  let lastLine = '';
  const child = spawn(command[0], command.slice(1), {
    cwd: root,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => log.write(chunk));
    eachLine(stream, (line) => {
      if (stream === child.stdout) lastLine = line;
      options.onLine?.(line);
    });
  }
  const problem = await new Promise((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('close', (code, signal) => {
      if (code === 0) resolve(undefined);
      else resolve(signal === null ? `exit status ${code}` : `killed by ${signal}`);
    });
  });
  log.end();
  await finished(log);
  if (problem !== undefined) {
    const where = relative(root, file);
    const cure = options.cure ?? `Read ${where}, mend what it names, and run the command again.`;
    throw new Failure(`${tail(file)}\n\n${name} failed (${problem}). ${cure}`);
  }
  return lastLine;
}
