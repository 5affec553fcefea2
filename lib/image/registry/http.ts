/**
 * HTTP to one registry: connections, trust, time limits, redirects. It follows redirects itself,
 * because that is where credentials leak: they go to the origin that asked for them and nowhere
 * else, not even back.
 */
import type { Readable } from 'node:stream';
import { rootCertificates } from 'node:tls';
import type { Dispatcher } from 'undici';
import { abortedError, EmbervmError, ImageError } from '../../errors.js';
import { sdkVersion } from '../../native/version.js';
import { connectionFailure, type Subject } from './failures.js';
import { proxyFor } from './proxy.js';
import { TemporaryFailure } from './retry.js';

export interface TransportOptions {
  readonly connectTimeoutMs: number;
  readonly headersTimeoutMs: number;
  readonly idleTimeoutMs: number;
  /** Certificates in PEM, besides those of Node. */
  readonly ca?: string | undefined;
  /** Whether requests may go without TLS: only where the registry itself has none. */
  readonly allowHttp: boolean;
  /** In place of what the environment says; false for none. */
  readonly proxy?: string | false | undefined;
}

export interface HttpRequest {
  readonly url: URL;
  readonly method?: 'GET' | 'POST' | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** Sent to the origin of `url` only. */
  readonly authorization?: string | undefined;
  readonly body?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly subject: Subject;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Readable;
  /** A redirect led to another origin. */
  readonly elsewhere: boolean;
}

const MAX_REDIRECTS = 5;
const MAX_CONNECTIONS = 16;
/** How many idle times a small document may take as a whole. */
const DOCUMENT_TIMEOUTS = 4;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** The first of a header that should be there once. */
export function headerOf(answer: HttpAnswer, name: string): string | undefined {
  const value = answer.headers[name];
  return Array.isArray(value) ? value[0] : value;
}

/** Lets go of an answer that nobody reads. */
export function discard(answer: HttpAnswer): void {
  answer.body.destroy();
}

/** Undefined when it is larger than that. */
async function readAll(answer: HttpAnswer, limit: number): Promise<Buffer | undefined> {
  if (Number(headerOf(answer, 'content-length') ?? 0) > limit) {
    discard(answer);
    return undefined;
  }
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of answer.body as AsyncIterable<Uint8Array>) {
    size += chunk.byteLength;
    if (size > limit) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

export class Transport {
  readonly #options: TransportOptions;
  /** By the address of the proxy; empty for none. */
  readonly #dispatchers = new Map<string, Promise<Dispatcher>>();
  #closed = false;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  /** One attempt to read a small document; `bytes` is undefined when it is larger than `limit`. */
  async fetch(
    request: HttpRequest,
    limit: number,
  ): Promise<{ answer: HttpAnswer; bytes: Buffer | undefined }> {
    // A server that sends a byte now and then never exceeds the other limits.
    const timeout = AbortSignal.timeout(this.#options.idleTimeoutMs * DOCUMENT_TIMEOUTS);
    const signal = AbortSignal.any([timeout, ...(request.signal ? [request.signal] : [])]);
    try {
      const answer = await this.send({ ...request, signal });
      return { answer, bytes: await readAll(answer, limit) };
    } catch (error) {
      if (timeout.aborted && request.signal?.aborted !== true) {
        throw connectionFailure(timeout.reason, request.subject);
      }
      if (error instanceof EmbervmError || error instanceof TemporaryFailure) throw error;
      throw this.failureOf(error, request.subject, request.signal);
    }
  }

  /** One attempt, with the redirects that belong to it. */
  async send(request: HttpRequest): Promise<HttpAnswer> {
    let { url, authorization } = request;
    for (let redirects = 0; ; redirects += 1) {
      const answer = await this.#exchange(request, url, authorization);
      const elsewhere = url.origin !== request.url.origin;
      const location = headerOf({ ...answer, elsewhere }, 'location');
      if (!REDIRECTS.has(answer.status) || location === undefined) return { ...answer, elsewhere };
      answer.body.destroy();
      const next = this.#follow(request, url, location, redirects);
      if (next.origin !== url.origin) authorization = undefined;
      url = next;
    }
  }

  #follow(request: HttpRequest, from: URL, location: string, redirects: number): URL {
    const refuse = (why: string): never => {
      throw new ImageError(
        'ERR_REGISTRY_PROTOCOL',
        `${request.subject.context.registry} redirects ${request.subject.what} ${why}`,
        { context: request.subject.context },
      );
    };
    if (redirects >= MAX_REDIRECTS) refuse(`more than ${MAX_REDIRECTS} times`);
    // The body of a POST is a credential.
    if (request.method === 'POST') refuse('where credentials were sent');
    if (!URL.canParse(location, from.href)) refuse('to what is no address');
    const next = new URL(location, from);
    if (next.protocol !== 'https:' && !(next.protocol === 'http:' && this.#options.allowHttp)) {
      refuse(`to an address without TLS (${next.protocol}//${next.host})`);
    }
    if (next.username !== '' || next.password !== '') refuse('to an address with credentials');
    return next;
  }

  async #exchange(
    request: HttpRequest,
    url: URL,
    authorization: string | undefined,
  ): Promise<Omit<HttpAnswer, 'elsewhere'>> {
    const { signal } = request;
    const proxy = proxyFor(url, this.#options.proxy, process.env);
    const subject = through(proxy, request.subject);
    // Imported here: whoever pulls nothing should not wait for it.
    const { request: send } = await import('undici');
    const dispatcher = await this.#open(proxy);
    if (signal?.aborted) throw abortedError(signal, `reading ${subject.what}`);
    try {
      const { statusCode, headers, body } = await send(url, {
        dispatcher,
        headersTimeout: this.#options.headersTimeoutMs,
        bodyTimeout: this.#options.idleTimeoutMs,
        method: request.method ?? 'GET',
        headers: {
          'user-agent': `embervm/${sdkVersion}`,
          // Digests are of the bytes as they are stored.
          'accept-encoding': 'identity',
          ...request.headers,
          ...(authorization === undefined ? {} : { authorization }),
        },
        body: request.body ?? null,
        ...(signal === undefined ? {} : { signal }),
      });
      // A body that is dropped ends with an error, which must not be an uncaught one.
      body.on('error', () => {});
      return { status: statusCode, headers, body };
    } catch (error) {
      throw this.failureOf(error, subject, signal);
    }
  }

  /** What a broken request or answer means. */
  failureOf(error: unknown, subject: Subject, signal: AbortSignal | undefined): Error {
    if (signal?.aborted) return abortedError(signal, `reading ${subject.what}`);
    if (this.#closed) {
      return new ImageError('ERR_REGISTRY_UNAVAILABLE', `${subject.what}: the source was closed`, {
        context: subject.context,
      });
    }
    return connectionFailure(error, subject);
  }

  #open(proxy: URL | undefined): Promise<Dispatcher> {
    const key = proxy?.href ?? '';
    const known = this.#dispatchers.get(key);
    if (known !== undefined) return known;
    const dispatcher = this.#createDispatcher(proxy);
    this.#dispatchers.set(key, dispatcher);
    return dispatcher;
  }

  /** Of our own: the global one belongs to the process that we are in. */
  async #createDispatcher(proxy: URL | undefined): Promise<Dispatcher> {
    const { Agent, ProxyAgent } = await import('undici');
    const { ca, connectTimeoutMs: timeout } = this.#options;
    const trust = { timeout, ...(ca === undefined ? {} : { ca: [...rootCertificates, ca] }) };
    const connections = MAX_CONNECTIONS;
    if (proxy === undefined) return new Agent({ connections, connect: trust });
    // Without TLS the proxy gets the requests as they are: many of them tunnel to port 443 alone.
    return new ProxyAgent({
      uri: proxy.href,
      proxyTunnel: false,
      connections,
      requestTls: trust,
      proxyTls: { timeout },
    });
  }

  /** Ends what is under way, too. */
  async close(): Promise<void> {
    this.#closed = true;
    const dispatchers = await Promise.all(this.#dispatchers.values());
    await Promise.all(dispatchers.map((dispatcher) => dispatcher.destroy()));
  }
}

function through(proxy: URL | undefined, subject: Subject): Subject {
  if (proxy === undefined) return subject;
  return { ...subject, context: { ...subject.context, proxy: proxy.host } };
}
