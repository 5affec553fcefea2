/**
 * Answers the challenges of one registry for one repository (distribution, "Token Authentication
 * Specification"; RFC 7617 for basic). Credentials are only asked for, and sent, when a registry
 * wants them; tokens are kept until they expire.
 */
import { abortedError, ImageError } from '../../errors.js';
import { parseJson } from '../manifest-json.js';
import type { Challenge } from './challenge.js';
import type { Credentials } from './docker-config.js';
import { type Subject, statusFailure } from './failures.js';
import { type HttpAnswer, type HttpRequest, headerOf, type Transport } from './http.js';

export interface AuthenticatorOptions {
  readonly transport: Transport;
  readonly registry: string;
  readonly repository: string;
  readonly allowHttp: boolean;
  findCredentials(): Promise<Credentials | undefined>;
}

const MAX_TOKEN_ANSWER = 256 * 1024;
/** What a token lasts when its server does not say. */
const DEFAULT_LIFE_S = 60;
/** Renewed before it ends: a request takes its time. */
const USED_LIFE = 0.9;
const CLIENT_ID = 'embervm';
const PRINTABLE = /^[\x21-\x7e]+$/;

interface Authorization {
  readonly header: string;
  readonly expiresAt: number;
}

export class Authenticator {
  readonly #options: AuthenticatorOptions;
  readonly #subject: Subject;
  #current: Authorization | undefined;
  #pending: Promise<Authorization> | undefined;
  #credentials: Promise<Credentials | undefined> | undefined;
  #hasCredentials = false;

  constructor(options: AuthenticatorOptions) {
    this.#options = options;
    const { registry, repository } = options;
    this.#subject = {
      what: `a token for ${registry}/${repository}`,
      context: { registry, repository },
    };
  }

  /** Whether what was sent was somebody's, and not anonymous. */
  get authenticated(): boolean {
    return this.#hasCredentials;
  }

  /** For the next request, when there is one already. */
  get header(): string | undefined {
    const current = this.#current;
    return current !== undefined && performance.now() < current.expiresAt
      ? current.header
      : undefined;
  }

  /**
   * The header that answers the challenges; undefined when nobody can answer them. Requests side by
   * side share one token, so it does not end with the one that happened to be first.
   */
  async answer(
    challenges: readonly Challenge[],
    refused: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string | undefined> {
    const current = this.header;
    if (current !== undefined && current !== refused) return current;
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    const basic = challenges.find(({ scheme }) => scheme === 'basic');
    const challenge = bearer ?? basic;
    if (challenge === undefined) return undefined;
    this.#pending ??= this.#renew(challenge, refused).finally(() => {
      this.#pending = undefined;
    });
    const { header } = await raceAbort(this.#pending, this.#subject.what, signal);
    return header === '' || header === refused ? undefined : header;
  }

  async #renew(challenge: Challenge, refused: string | undefined): Promise<Authorization> {
    this.#current = undefined;
    this.#credentials ??= this.#options.findCredentials();
    const credentials = await this.#credentials;
    this.#hasCredentials = credentials !== undefined;
    const renewed =
      challenge.scheme === 'basic'
        ? forEver(credentials === undefined ? '' : basicHeader(credentials))
        : credentials?.registryToken === undefined
          ? await this.#fetchToken(challenge, credentials)
          : forEver(`Bearer ${credentials.registryToken}`);
    if (renewed.header !== '' && renewed.header !== refused) this.#current = renewed;
    return renewed;
  }

  async #fetchToken(
    challenge: Challenge,
    credentials: Credentials | undefined,
  ): Promise<Authorization> {
    const realm = this.#realmOf(challenge);
    const request = this.#tokenRequest(realm, challenge, credentials);
    const { answer, bytes } = await this.#options.transport.fetch(request, MAX_TOKEN_ANSWER);
    return this.#readToken(answer, bytes);
  }

  #tokenRequest(url: URL, challenge: Challenge, credentials: Credentials | undefined): HttpRequest {
    const subject = this.#subject;
    const service = challenge.parameters.get('service');
    const scope =
      challenge.parameters.get('scope') ?? `repository:${this.#options.repository}:pull`;
    if (credentials?.identityToken !== undefined) {
      const body = new URLSearchParams({
        grant_type: 'refresh_token',
        client_id: CLIENT_ID,
        scope,
        refresh_token: credentials.identityToken,
        ...(service === undefined ? {} : { service }),
      }).toString();
      const headers = { 'content-type': 'application/x-www-form-urlencoded' };
      return { url, method: 'POST', headers, body, subject };
    }
    if (service !== undefined) url.searchParams.set('service', service);
    url.searchParams.set('scope', scope);
    if (credentials === undefined) return { url, subject };
    url.searchParams.set('account', credentials.username);
    return { url, authorization: basicHeader(credentials), subject };
  }

  #readToken(answer: HttpAnswer, bytes: Buffer | undefined): Authorization {
    if (answer.status !== 200) {
      throw statusFailure(
        {
          status: answer.status,
          retryAfter: headerOf(answer, 'retry-after'),
          body: bytes ?? new Uint8Array(),
          elsewhere: false,
          authenticated: this.#hasCredentials,
        },
        this.#subject,
      );
    }
    if (bytes === undefined) this.#refuse('is too long');
    const content = parseJson(bytes, `the answer to a request for ${this.#subject.what}`);
    const token = content.token ?? content.access_token;
    if (typeof token !== 'string' || !PRINTABLE.test(token)) this.#refuse('has no token');
    const stated = content.expires_in;
    const life = typeof stated === 'number' && stated > 0 ? stated : DEFAULT_LIFE_S;
    return {
      header: `Bearer ${token}`,
      expiresAt: performance.now() + life * USED_LIFE * 1000,
    };
  }

  /** Where tokens are had. Credentials go there, so it needs TLS as the registry does. */
  #realmOf(challenge: Challenge): URL {
    const realm = challenge.parameters.get('realm') ?? '';
    if (!URL.canParse(realm)) this.#refuse('cannot be had: the challenge names no realm');
    const url = new URL(realm);
    const safe = url.protocol === 'https:' || (url.protocol === 'http:' && this.#options.allowHttp);
    if (!safe || url.username !== '' || url.password !== '') {
      this.#refuse(
        `cannot be had: ${url.protocol}//${url.host} is no place to send credentials to`,
      );
    }
    return url;
  }

  #refuse(why: string): never {
    throw new ImageError('ERR_REGISTRY_PROTOCOL', `${this.#subject.what} ${why}`, {
      context: this.#subject.context,
    });
  }
}

function forEver(header: string): Authorization {
  return { header, expiresAt: Number.POSITIVE_INFINITY };
}

function basicHeader({ username, password }: Credentials): string {
  return `Basic ${Buffer.from(`${username}:${password}`, 'utf8').toString('base64')}`;
}

/** Leaves a shared piece of work without ending it. */
function raceAbort<Result>(
  work: Promise<Result>,
  what: string,
  signal: AbortSignal | undefined,
): Promise<Result> {
  if (signal === undefined) return work;
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(abortedError(signal, `getting ${what}`));
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
