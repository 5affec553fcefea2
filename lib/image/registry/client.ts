/** Pulls from one endpoint and one repository (distribution specification 1.1, "Pull"). */
import type { ResolvedRegistryOptions } from '../../config/registry.js';
import { ImageError } from '../../errors.js';
import { MAX_MANIFEST_BYTES, type ManifestBytes } from '../manifest.js';
import { digestError, digestOf, isDigest } from '../manifest-digest.js';
import { acceptedManifests, bareType } from '../manifest-types.js';
import { Authenticator } from './auth.js';
import { parseChallenges } from './challenge.js';
import { type Credentials, findCredentials } from './docker-config.js';
import type { Endpoint } from './endpoint.js';
import { type Subject, statusFailure } from './failures.js';
import { discard, type HttpAnswer, type HttpRequest, headerOf, Transport } from './http.js';
import { withRetries } from './retry.js';

export interface BlobRange {
  readonly digest: string;
  readonly offset: number;
  /** Of the version that the first bytes were of. */
  readonly etag?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

const MAX_ERROR_BYTES = 16 * 1024;
const MAX_MIRROR_RETRIES = 1;

export class RegistryClient {
  readonly #endpoint: Endpoint;
  readonly #repository: string;
  readonly #policy: ResolvedRegistryOptions;
  readonly #transport: Transport;
  readonly #auth: Authenticator;

  constructor(endpoint: Endpoint, repository: string, options: ResolvedRegistryOptions) {
    const allowHttp = endpoint.base.protocol === 'http:';
    this.#endpoint = endpoint;
    this.#repository = repository;
    // There is somebody else to ask, so that waiting for a mirror is not worth it.
    const retries = endpoint.isMirror
      ? Math.min(options.retries, MAX_MIRROR_RETRIES)
      : options.retries;
    this.#policy = { ...options, retries };
    this.#transport = new Transport({ ...options, ca: endpoint.ca, allowHttp });
    this.#auth = new Authenticator({
      transport: this.#transport,
      registry: endpoint.registry,
      repository,
      allowHttp,
      findCredentials: () => this.#findCredentials(),
    });
  }

  get policy(): ResolvedRegistryOptions {
    return this.#policy;
  }

  subject(kind: string, id: string): Subject {
    const { registry } = this.#endpoint;
    const repository = this.#repository;
    return {
      what: `the ${kind} ${id} of ${registry}/${repository}`,
      context: { registry, repository, [isDigest(id) ? 'digest' : 'tag']: id },
    };
  }

  /** By tag or digest; verified against the digest that the answer names. */
  async readManifest(id: string, signal?: AbortSignal): Promise<ManifestBytes> {
    const subject = this.subject('manifest', id);
    return withRetries(this.#policy, `reading ${subject.what}`, signal, async () => {
      const { answer, bytes } = await this.#fetch(
        { path: `manifests/${id}`, headers: { accept: acceptedManifests }, subject, signal },
        MAX_MANIFEST_BYTES,
      );
      const stated = headerOf(answer, 'docker-content-digest')?.trim();
      if (isDigest(stated)) {
        const actual = digestOf(bytes);
        const { what, context } = subject;
        if (actual !== stated) throw digestError({ digest: stated, what, context }, actual);
      }
      return { bytes, mediaType: bareType(headerOf(answer, 'content-type')) };
    });
  }

  /** A small blob; the caller verifies it. */
  async readBlob(digest: string, size: number, signal?: AbortSignal): Promise<Uint8Array> {
    const subject = this.subject('blob', digest);
    return withRetries(this.#policy, `reading ${subject.what}`, signal, async () => {
      const request = { path: `blobs/${digest}`, headers: {}, subject, signal };
      return (await this.#fetch(request, size)).bytes;
    });
  }

  /** The answer to a request for a blob, whole or from an offset: status 200, 206 or 416. */
  async openBlob(range: BlobRange): Promise<HttpAnswer> {
    const { digest, offset, etag, signal } = range;
    const subject = this.subject('layer', digest);
    const headers: Record<string, string> = {};
    if (offset > 0) headers.range = `bytes=${offset}-`;
    if (offset > 0 && etag !== undefined) headers['if-range'] = etag;
    return withRetries(this.#policy, `reading ${subject.what}`, signal, async () => {
      const request = { path: `blobs/${digest}`, headers, subject, signal };
      const answer = await this.#exchange(request);
      if (answer.status === 200 || (offset > 0 && [206, 416].includes(answer.status))) {
        return answer;
      }
      return this.#fail(answer, subject, signal);
    });
  }

  /** What a body that broke off means. */
  failureOf(error: unknown, digest: string, signal: AbortSignal | undefined): Error {
    return this.#transport.failureOf(error, this.subject('layer', digest), signal);
  }

  async close(): Promise<void> {
    await this.#transport.close();
  }

  async #findCredentials(): Promise<Credentials | undefined> {
    const { auth, registry } = this.#endpoint;
    if (auth !== undefined) return auth;
    const { dockerConfig } = this.#policy;
    return dockerConfig === false ? undefined : findCredentials(registry, dockerConfig);
  }

  #requestOf(call: Call): HttpRequest {
    const url = new URL(`${this.#repository}/${call.path}`, this.#endpoint.base);
    return { ...call, url, authorization: this.#auth.header };
  }

  /** Sends, and once more when the registry wants to know who asks. */
  async #exchange(call: Call): Promise<HttpAnswer> {
    const request = this.#requestOf(call);
    const answer = await this.#transport.send(request);
    const authorization = await this.#answerTo(answer, request);
    if (authorization === undefined) return answer;
    discard(answer);
    return this.#transport.send({ ...request, authorization });
  }

  async #answerTo(answer: HttpAnswer, request: HttpRequest): Promise<string | undefined> {
    if (answer.status !== 401 || answer.elsewhere) return undefined;
    const header = answer.headers['www-authenticate'];
    const challenges = parseChallenges([header ?? []].flat());
    return this.#auth.answer(challenges, request.authorization, request.signal);
  }

  /** A small document. */
  async #fetch(call: Call, limit: number): Promise<{ answer: HttpAnswer; bytes: Uint8Array }> {
    const request = this.#requestOf(call);
    let { answer, bytes } = await this.#transport.fetch(request, limit);
    const authorization = await this.#answerTo(answer, request);
    if (authorization !== undefined) {
      ({ answer, bytes } = await this.#transport.fetch({ ...request, authorization }, limit));
    }
    if (answer.status !== 200) throw this.#failureOfStatus(answer, bytes, call.subject);
    const encoding = headerOf(answer, 'content-encoding') ?? 'identity';
    if (encoding !== 'identity') this.#refuseEncoding(encoding, call.subject);
    if (bytes === undefined) {
      const { what, context } = call.subject;
      throw new ImageError('ERR_IMAGE_LIMIT', `${what} has more than ${limit} bytes`, {
        context: { ...context, limit },
      });
    }
    return { answer, bytes };
  }

  #refuseEncoding(encoding: string, subject: Subject): never {
    throw new ImageError(
      'ERR_REGISTRY_PROTOCOL',
      `${subject.what} came with the content encoding ${JSON.stringify(encoding.slice(0, 40))}, which was not asked for`,
      { context: subject.context },
    );
  }

  async #fail(
    answer: HttpAnswer,
    subject: Subject,
    signal: AbortSignal | undefined,
  ): Promise<never> {
    const chunks: Uint8Array[] = [];
    let size = 0;
    try {
      for await (const chunk of answer.body as AsyncIterable<Uint8Array>) {
        chunks.push(chunk);
        size += chunk.byteLength;
        if (size > MAX_ERROR_BYTES) break;
      }
    } catch (error) {
      throw this.#transport.failureOf(error, subject, signal);
    }
    throw this.#failureOfStatus(answer, Buffer.concat(chunks), subject);
  }

  #failureOfStatus(answer: HttpAnswer, body: Uint8Array | undefined, subject: Subject): Error {
    const refusal = {
      status: answer.status,
      retryAfter: headerOf(answer, 'retry-after'),
      body: body ?? new Uint8Array(),
      elsewhere: answer.elsewhere,
      authenticated: this.#auth.authenticated,
    };
    return statusFailure(refusal, subject);
  }
}

interface Call {
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly subject: Subject;
  readonly signal: AbortSignal | undefined;
}
