/** Where one output stream of a program goes: to a reader, into the result, or both. */
import { Readable } from 'node:stream';

const STREAM_HIGH_WATER = 64 * 1024;
const FIRST_ROOM = 4096;

/** Bytes up to a limit, in memory that grows with them and not with how many pieces they came in. */
export class ByteCollector {
  readonly #limit: number;
  #bytes = Buffer.alloc(0);
  #length = 0;
  #truncated = false;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get truncated(): boolean {
    return this.#truncated;
  }

  append(data: Uint8Array): void {
    const room = this.#limit - this.#length;
    if (data.length > room) this.#truncated = true;
    const kept = data.subarray(0, room);
    const needed = this.#length + kept.length;
    if (needed > this.#bytes.length) {
      const size = Math.min(this.#limit, Math.max(FIRST_ROOM, needed, 2 * this.#bytes.length));
      const grown = Buffer.allocUnsafeSlow(size);
      this.#bytes.copy(grown, 0, 0, this.#length);
      this.#bytes = grown;
    }
    this.#bytes.set(kept, this.#length);
    this.#length = needed;
  }

  /** What was collected; the collector is empty afterwards. */
  take(): Buffer {
    const taken = this.#bytes.subarray(0, this.#length);
    this.#bytes = Buffer.alloc(0);
    this.#length = 0;
    return taken;
  }
}

/** One of stdout and stderr. */
export class OutputSink {
  readonly #onDemand: () => void;
  readonly #captured: ByteCollector;
  #stream: Readable | undefined;
  /** Somebody else takes the bytes, and the result is not to have them. */
  #claimed = false;
  /** The result was asked for before anybody claimed the stream. */
  #wanted = false;
  #roomWaiter: (() => void) | undefined;
  #draining = false;

  constructor(maxBuffer: number, onDemand: () => void) {
    this.#captured = new ByteCollector(maxBuffer);
    this.#onDemand = onDemand;
  }

  get truncated(): boolean {
    return this.#captured.truncated;
  }

  /** The result will have this stream, whoever reads it from now on. */
  want(): void {
    if (!this.#claimed) this.#wanted = true;
  }

  /** Takes the stream out of the result; returns what has arrived of it. */
  claim(): Buffer {
    this.#claimed = true;
    return this.#wanted ? Buffer.alloc(0) : this.#captured.take();
  }

  /** The stream for a reader, made at the first call. */
  stream(): Readable {
    if (this.#stream !== undefined) return this.#stream;
    const early = this.claim();
    const stream = new Readable({
      highWaterMark: STREAM_HIGH_WATER,
      read: () => {
        this.#onDemand();
        this.#wakeWriter();
      },
      destroy: (error, done) => {
        // The reader has gone: the program must not wait for it.
        this.#wakeWriter();
        done(error);
      },
    });
    this.#stream = stream;
    if (early.length > 0) stream.push(early);
    return stream;
  }

  /** Resolves when more can be taken. */
  async write(data: Uint8Array): Promise<void> {
    if (!this.#claimed || this.#wanted) this.#captured.append(data);
    const stream = this.#stream;
    if (stream === undefined || stream.destroyed) return;
    if (this.#draining && stream.readableLength > STREAM_HIGH_WATER) return;
    if (stream.push(data) || this.#draining) return;
    await new Promise<void>((resolve) => {
      this.#roomWaiter = resolve;
    });
  }

  /** From now on the end must be reached: a reader that is too slow loses output. */
  drain(): void {
    this.#draining = true;
    this.#wakeWriter();
  }

  /** No more output. Without `complete` the stream closes with no `end`. */
  close(complete: boolean): void {
    if (complete) this.#stream?.push(null);
    else this.#stream?.destroy();
  }

  /** What the result has of this stream. */
  result(): Buffer {
    return this.#captured.take();
  }

  #wakeWriter(): void {
    const wake = this.#roomWaiter;
    this.#roomWaiter = undefined;
    wake?.();
  }
}
