/** What a caller gives to be written, piece by piece, into a call that may fail meanwhile. */
import { ConfigError } from '../errors.js';
import { type FileQuestion, MAX_FILE_MESSAGE } from '../rpc/files-client.js';
import type { FileCall } from './files-port.js';
import type { FileSource } from './files-types.js';

/** Checks what can be checked before anything is opened. */
export function checkSource(data: unknown): FileSource {
  const iterable =
    typeof data === 'object' &&
    data !== null &&
    (Symbol.asyncIterator in data || Symbol.iterator in data);
  if (typeof data === 'string' || iterable) return data as FileSource;
  throw new ConfigError(
    'ERR_INVALID_CONFIG',
    'invalid file operation: data must be text, bytes, or an iterable of them',
    { context: { option: 'data' } },
  );
}

export function* pieces(bytes: Uint8Array): Generator<Uint8Array, void, void> {
  for (let at = 0; at < bytes.length; at += MAX_FILE_MESSAGE) {
    yield bytes.subarray(at, at + MAX_FILE_MESSAGE);
  }
}

/** Sends all of `source` and waits until the agent confirms it. */
export async function feedFile(call: FileCall, source: FileSource): Promise<void> {
  await feedCall(call, toQuestions(source));
}

/** Sends all that is asked and waits for the end. Stops as soon as the call has failed. */
export async function feedCall(
  call: FileCall,
  questions: AsyncGenerator<FileQuestion, void, void>,
): Promise<void> {
  let over = false;
  let wake = (): void => {};
  const finished = call.finish().finally(() => {
    over = true;
    wake();
  });
  // Awaited below, but it may fail before.
  finished.catch(() => {});
  /** `undefined` when the call ends first: a source may stay silent for ever. */
  const next = (): Promise<IteratorResult<FileQuestion, void> | undefined> =>
    new Promise((resolve, reject) => {
      wake = () => resolve(undefined);
      questions.next().then(resolve, reject);
    });
  try {
    while (!over) {
      const item = await next();
      if (item === undefined) break;
      if (item.done === true) {
        await call.end();
        break;
      }
      await call.send(item.value);
    }
    await finished;
  } catch (error) {
    // What the agent says goes before what it did to our sending.
    if (over) await finished;
    throw error;
  } finally {
    // Not awaited: a source that is stuck in `next` would never answer.
    questions.return().catch(() => {});
  }
}

async function* toQuestions(source: FileSource): AsyncGenerator<FileQuestion, void, void> {
  const whole = typeof source === 'string' || source instanceof Uint8Array;
  for await (const chunk of whole ? [source] : source) {
    for (const data of pieces(toBytes(chunk))) yield { data };
  }
}

function toBytes(chunk: unknown): Uint8Array {
  if (typeof chunk === 'string') return Buffer.from(chunk);
  if (chunk instanceof Uint8Array) return chunk;
  throw new ConfigError(
    'ERR_INVALID_CONFIG',
    `invalid file operation: data yielded ${typeof chunk}, which is neither bytes nor text`,
    { context: { option: 'data' } },
  );
}
