/**
 * A layer as one stream, however often the connection breaks: each continuation begins where the
 * last byte was, and is of the same blob by its range, its length and its entity tag.
 */
import { createError, EmbervmError, ImageError } from '../../errors.js';
import { type Expected, sizeError, verifyStream } from '../manifest-digest.js';
import type { LayerDescriptor } from '../source.js';
import type { RegistryClient } from './client.js';
import { discard, type HttpAnswer, headerOf } from './http.js';
import { delayOf, isWorthAnother, pause, TemporaryFailure } from './retry.js';

/** Of one blob: a server that always breaks off after a few bytes must not keep us for ever. */
const MAX_CONTINUATIONS = 100;
const CONTENT_RANGE = /^bytes (\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/;

type Wanted = Expected & { readonly size: number };

interface Opened {
  readonly answer: HttpAnswer;
  /** Bytes at the beginning that the reader has already. */
  readonly skip: number;
  readonly client: RegistryClient;
}

/** Opens the layer at the first client that has it; the others are for when that one fails. */
export async function openBlobStream(
  clients: readonly RegistryClient[],
  layer: LayerDescriptor,
  offset: number,
  signal: AbortSignal | undefined,
): Promise<AsyncIterable<Uint8Array>> {
  const [first] = clients;
  if (first === undefined) throw createError('ERR_INTERNAL', 'there is no registry to ask');
  const { what, context } = first.subject('layer', layer.digest);
  const stream = new BlobStream(clients, { ...layer, what, context }, offset, signal);
  return verifyStream(await stream.open(), stream.wanted, offset);
}

class BlobStream {
  readonly wanted: Wanted;
  readonly #clients: readonly RegistryClient[];
  readonly #signal: AbortSignal | undefined;
  #position: number;
  #etag: string | undefined;
  /** Whose entity tag that is. */
  #etagOf: RegistryClient | undefined;

  constructor(
    clients: readonly RegistryClient[],
    wanted: Wanted,
    offset: number,
    signal: AbortSignal | undefined,
  ) {
    this.#clients = clients;
    this.wanted = wanted;
    this.#position = offset;
    this.#signal = signal;
  }

  async open(): Promise<AsyncIterable<Uint8Array>> {
    return this.#read(await this.#connect());
  }

  async *#read(first: Opened): AsyncGenerator<Uint8Array, void, undefined> {
    let opened = first;
    let fruitless = 0;
    for (let count = 0; ; count += 1) {
      const before = this.#position;
      let failure: unknown;
      try {
        yield* this.#drain(opened);
      } catch (error) {
        failure = this.#brokenOff(error, opened.client);
      }
      if (this.#position >= this.wanted.size) return;
      fruitless = this.#position > before ? 0 : fruitless + 1;
      const { policy } = opened.client;
      if (fruitless > policy.retries || count >= MAX_CONTINUATIONS) {
        throw failure ?? sizeError(this.wanted, this.#position);
      }
      await pause(delayOf(fruitless, policy), `reading ${this.wanted.what}`, this.#signal);
      opened = await this.#connect();
    }
  }

  /** Returns the failure when going on may help, or throws what is final. */
  #brokenOff(error: unknown, client: RegistryClient): unknown {
    if (error instanceof EmbervmError) throw error;
    const failure = client.failureOf(error, this.wanted.digest, this.#signal);
    if (!(failure instanceof TemporaryFailure)) throw failure;
    return failure.failure;
  }

  async *#drain({ answer, skip }: Opened): AsyncGenerator<Uint8Array, void, undefined> {
    let dropped = 0;
    for await (const chunk of answer.body as AsyncIterable<Uint8Array>) {
      const drop = Math.min(skip - dropped, chunk.byteLength);
      dropped += drop;
      if (drop === chunk.byteLength) continue;
      this.#position += chunk.byteLength - drop;
      if (this.#position > this.wanted.size) throw sizeError(this.wanted, this.#position);
      yield chunk.subarray(drop);
    }
  }

  async #connect(): Promise<Opened> {
    let failure: unknown;
    for (const client of this.#clients) {
      try {
        return await this.#connectTo(client);
      } catch (error) {
        failure = error;
        if (!isWorthAnother(error)) break;
      }
    }
    throw failure;
  }

  async #connectTo(client: RegistryClient): Promise<Opened> {
    const offset = this.#position;
    const etag = this.#etagOf === client ? this.#etag : undefined;
    const { digest } = this.wanted;
    const answer = await client.openBlob({ digest, offset, etag, signal: this.#signal });
    try {
      const skip = this.#checkAnswer(answer, offset);
      const tag = headerOf(answer, 'etag');
      // Only strong tags promise the same bytes (RFC 9110 §13.1.5).
      this.#etag = tag?.startsWith('"') ? tag : undefined;
      this.#etagOf = client;
      return { answer, skip, client };
    } catch (error) {
      discard(answer);
      throw error;
    }
  }

  /** How many of the bytes that will come are known already. */
  #checkAnswer(answer: HttpAnswer, offset: number): number {
    const { size } = this.wanted;
    const encoding = headerOf(answer, 'content-encoding') ?? 'identity';
    if (encoding !== 'identity') this.#refuse('was encoded, which was not asked for');
    const header = headerOf(answer, 'content-length');
    const length = header === undefined ? undefined : Number(header);
    // Not satisfiable: what the server has ends before this offset.
    if (answer.status === 416) throw sizeError(this.wanted, offset);
    if (answer.status === 200) {
      if (length !== undefined && length !== size) throw sizeError(this.wanted, length);
      return offset;
    }
    const [, start, end, total] = CONTENT_RANGE.exec(headerOf(answer, 'content-range') ?? '') ?? [];
    if (start === undefined || Number(start) !== offset || Number(end) >= size) {
      this.#refuse('came with a range that was not asked for');
    }
    if (total !== '*' && Number(total) !== size) throw sizeError(this.wanted, Number(total));
    return 0;
  }

  #refuse(why: string): never {
    const { what, context } = this.wanted;
    throw new ImageError('ERR_REGISTRY_PROTOCOL', `${what} ${why}`, { context });
  }
}
