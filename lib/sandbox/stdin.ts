/** How bytes reach the stdin of a program. */
import { Writable } from 'node:stream';
import type { StdinSource } from '../config/exec.js';
import { type CommandChannel, MAX_STDIN_BYTES } from '../rpc/exec-channel.js';

/** A stream whose writes reach the program's pipe, with its back-pressure. */
export function createStdin(channel: Promise<CommandChannel>): Writable {
  const stdin = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      settle(stdin, async () => writePieces(await channel, chunk), done);
    },
    final: (done) => {
      settle(stdin, async () => (await channel).closeStdin(), done);
    },
    destroy: (error, done) => {
      // A writer that gives up ends the input; of a program that has ended there is none.
      channel.then((open) => open.closeStdin()).catch(() => {});
      done(error);
    },
  });
  return stdin;
}

/**
 * The program or the guest may be gone before its input is: that is the
 * execution's to report, so the stream is destroyed and raises no error.
 */
function settle(stdin: Writable, run: () => Promise<void>, done: () => void): void {
  run().then(done, () => {
    stdin.destroy();
    done();
  });
}

/** Feeds `source` to the program and closes its stdin. Stops when `ended` resolves. */
export async function feedStdin(
  channel: CommandChannel,
  source: StdinSource,
  ended: Promise<unknown>,
): Promise<void> {
  const input = iterate(source);
  let over = false;
  let wake = (): void => {};
  void ended.then(() => {
    over = true;
    wake();
  });
  /** `undefined` when the program ends first: a source may stay silent for ever. */
  const next = (): Promise<IteratorResult<unknown, unknown> | undefined> =>
    new Promise((resolve, reject) => {
      wake = () => resolve(undefined);
      input.next().then(resolve, reject);
    });
  try {
    while (!over) {
      const item = await next();
      if (item === undefined || item.done === true) break;
      await guard(writePieces(channel, toBytes(item.value)), () => over);
    }
    await guard(channel.closeStdin(), () => over);
  } finally {
    // Not awaited: a source that is stuck in `next` would never answer.
    if (over) input.return?.().catch(() => {});
  }
}

function toBytes(chunk: unknown): Uint8Array {
  if (typeof chunk === 'string') return Buffer.from(chunk);
  if (chunk instanceof Uint8Array) return chunk;
  throw new TypeError(`stdin yielded ${typeof chunk}, which is neither bytes nor text`);
}

/** The program does not have to read its input to the end: what fails because it ended is fine. */
async function guard(write: Promise<void>, isOver: () => boolean): Promise<void> {
  try {
    await write;
  } catch (error) {
    if (!isOver()) throw new StdinWriteError(error);
  }
}

/** The channel failed, not the source. The execution learns of it from its own side. */
export class StdinWriteError extends Error {
  constructor(cause: unknown) {
    super('stdin could not be written', { cause });
  }
}

function iterate(source: StdinSource): AsyncIterator<unknown, unknown, undefined> {
  if (typeof source === 'string' || source instanceof Uint8Array) {
    return once(typeof source === 'string' ? Buffer.from(source) : source);
  }
  return source[Symbol.asyncIterator]();
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  yield bytes;
}

async function writePieces(channel: CommandChannel, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; at += MAX_STDIN_BYTES) {
    await channel.writeStdin(bytes.subarray(at, at + MAX_STDIN_BYTES));
  }
}
