/** Files of the guest as Node streams: any size, one chunk in memory, back-pressure to the guest. */
import { Readable, Writable } from 'node:stream';
import { own } from '../rpc/codec.js';
import { pieces } from './files-feed.js';
import type { FileCall } from './files-port.js';

const HIGH_WATER = 64 * 1024;

type Open = (signal: AbortSignal) => Promise<FileCall>;

/** The stream of a call that gives data; it is opened when the first byte is wanted. */
export function readableOf(open: Open, signal: AbortSignal | undefined): Readable {
  const closing = new AbortController();
  const limit = either(closing.signal, signal);
  let call: FileCall | undefined;
  return new Readable({
    highWaterMark: HIGH_WATER,
    read() {
      pull(this).catch((error: unknown) => this.destroy(error as Error));
    },
    destroy(error, done) {
      closing.abort();
      limit.release();
      call?.close();
      done(error);
    },
  });

  async function pull(stream: Readable): Promise<void> {
    call ??= await open(limit.signal);
    for (;;) {
      const event = await call.receive();
      if (stream.destroyed) return;
      if (event === undefined) {
        stream.push(null);
        return;
      }
      if (event.data.length > 0) {
        stream.push(own(event.data));
        return;
      }
    }
  }
}

/** The stream of a call that takes data; it is opened at once. */
export function writableOf(open: Open, signal: AbortSignal | undefined): Writable {
  const closing = new AbortController();
  const limit = either(closing.signal, signal);
  let call: FileCall | undefined;
  let finished: Promise<void> | undefined;
  return new Writable({
    highWaterMark: HIGH_WATER,
    construct(done) {
      open(limit.signal).then((opened) => {
        call = opened;
        finished = opened.finish();
        // The agent refuses when it will, not when we next write.
        finished.catch((error: Error) => this.destroy(error));
        done();
      }, done);
    },
    write(chunk: Buffer, _encoding, done) {
      send(chunk).then(() => done(), done);
    },
    final(done) {
      end().then(() => done(), done);
    },
    destroy(error, done) {
      closing.abort();
      limit.release();
      call?.close();
      done(error);
    },
  });

  async function send(chunk: Buffer): Promise<void> {
    for (const data of pieces(chunk)) await call?.send({ data });
  }

  async function end(): Promise<void> {
    await call?.end();
    await finished;
  }
}

interface Limit {
  signal: AbortSignal;
  release(): void;
}

/** Aborted by either. `AbortSignal.any` would hold on to a signal that lives for long. */
function either(own: AbortSignal, given: AbortSignal | undefined): Limit {
  if (given === undefined) return { signal: own, release: () => {} };
  const controller = new AbortController();
  const abort = (signal: AbortSignal): void => controller.abort(signal.reason);
  const onOwn = (): void => abort(own);
  const onGiven = (): void => abort(given);
  if (given.aborted) onGiven();
  own.addEventListener('abort', onOwn, { once: true });
  given.addEventListener('abort', onGiven, { once: true });
  return {
    signal: controller.signal,
    release: () => given.removeEventListener('abort', onGiven),
  };
}
