/** What went wrong between us and a registry, as errors that say what to do about it. */
import { type ErrorContext, ImageError } from '../../errors.js';
import { isObject, shown } from '../manifest-json.js';
import { parseRetryAfter, TemporaryFailure } from './retry.js';

/** What a request was about. */
export interface Subject {
  /** Such as `the manifest 3.12 of docker.io/library/python`. */
  readonly what: string;
  /** `registry`, `repository`, and `tag` or `digest`. */
  readonly context: ErrorContext;
}

const PROXY_REFUSES = 407;
const TOO_MANY_REQUESTS = 429;
const REQUEST_TIMEOUT = 408;
const MAX_CODE = 60;

/** Of Node's TLS: certificates that are not trusted, not valid, or not those of this host. */
const CERTIFICATE_CODE =
  /^(CERT_|ERR_TLS_CERT|DEPTH_ZERO_SELF_SIGNED|SELF_SIGNED_CERT|UNABLE_TO_(GET|VERIFY))/;
/** Somebody answered who does not speak TLS, or no HTTP. */
const WRONG_PROTOCOL = /^(ERR_SSL_|EPROTO|HPE_|UND_ERR_HEADERS_OVERFLOW|UND_ERR_INVALID_ARG)/;

function codeOf(error: unknown): string {
  const code = isObject(error) || error instanceof Error ? (error as { code?: unknown }).code : '';
  return typeof code === 'string' ? code.slice(0, MAX_CODE) : '';
}

/** The reason below undici's wrappers: Node tries several addresses and joins their errors. */
function rootOf(error: unknown): unknown {
  if (error instanceof AggregateError && error.errors.length > 0) return error.errors.at(-1);
  const { cause } = (error ?? {}) as { cause?: unknown };
  return codeOf(error) === '' && cause !== undefined ? rootOf(cause) : error;
}

/** A request, or the answer to it, that broke off. */
export function connectionFailure(error: unknown, subject: Subject): ImageError | TemporaryFailure {
  const root = rootOf(error);
  const code = codeOf(root);
  const { registry } = subject.context;
  const options = { cause: error, context: { ...subject.context, reason: code } };
  if (isProxyRefusal(error)) return proxyRefusal(subject, options);
  if (CERTIFICATE_CODE.test(code)) {
    return new ImageError(
      'ERR_REGISTRY_UNAVAILABLE',
      `${registry} has a certificate that is not trusted (${code}): set "ca" for this registry`,
      options,
    );
  }
  if (WRONG_PROTOCOL.test(code)) {
    return new ImageError(
      'ERR_REGISTRY_PROTOCOL',
      `${registry} does not answer as a registry (${code}): if it has no TLS, set "insecure: true"`,
      options,
    );
  }
  const reason = code === '' ? String((root as Error | undefined)?.message ?? root) : code;
  const failure = new ImageError(
    'ERR_REGISTRY_UNAVAILABLE',
    `${subject.what} could not be read, ${registry} is not to be reached${viaProxy(subject)} or too slow: ${reason}`,
    options,
  );
  return code === 'ENOTFOUND' ? failure : new TemporaryFailure(failure);
}

/** The first error of the body of an error answer (distribution specification, "Error Codes"). */
function detailOf(body: Uint8Array): string {
  try {
    const { errors } = JSON.parse(Buffer.from(body).toString('utf8')) as { errors?: unknown };
    const [first] = Array.isArray(errors) ? (errors as unknown[]) : [];
    if (!isObject(first)) return '';
    const parts = [first.code, first.message].filter((part) => typeof part === 'string');
    return parts.length === 0 ? '' : ` (${shown(parts.join(': '))})`;
  } catch {
    return '';
  }
}

export interface Refusal {
  readonly status: number;
  readonly retryAfter: string | undefined;
  readonly body: Uint8Array;
  /** The answer of another server, to which the registry had sent us. */
  readonly elsewhere: boolean;
  readonly authenticated: boolean;
}

/** An answer that is not the one that was asked for. */
export function statusFailure(refusal: Refusal, subject: Subject): ImageError | TemporaryFailure {
  const { status } = refusal;
  const { registry } = subject.context;
  const detail = detailOf(refusal.body);
  const context = { ...subject.context, status };
  const wait = parseRetryAfter(refusal.retryAfter, Date.now());
  if (status === TOO_MANY_REQUESTS) {
    const failure = new ImageError(
      'ERR_REGISTRY_RATE_LIMIT',
      `${registry} allows no more requests for now${detail}: wait, log in, or use a mirror`,
      { context: { ...context, ...(wait === undefined ? {} : { retryAfterMs: wait }) } },
    );
    return new TemporaryFailure(failure, wait);
  }
  // Links to a storage are signed and expire: the registry gives a new one.
  const expired = refusal.elsewhere && status >= 400 && status < 404;
  if (status >= 500 || status === REQUEST_TIMEOUT || expired) {
    const who = refusal.elsewhere ? `the storage that ${registry} names` : registry;
    return new TemporaryFailure(
      new ImageError(
        'ERR_REGISTRY_UNAVAILABLE',
        `${subject.what} could not be read, ${who} failed with status ${status}${detail}`,
        { context },
      ),
      wait,
    );
  }
  if (status === PROXY_REFUSES) return proxyRefusal(subject, { context });
  if (status === 404) {
    return new ImageError(
      'ERR_IMAGE_NOT_FOUND',
      `${subject.what} is not there${detail}: check the name, or log in if it is private`,
      { context },
    );
  }
  if (status === 401 || status === 403) return deniedError(subject, refusal, context, detail);
  return new ImageError(
    'ERR_REGISTRY_PROTOCOL',
    `${registry} answered status ${status}${detail} when asked for ${subject.what}`,
    { context },
  );
}

function deniedError(
  subject: Subject,
  refusal: Refusal,
  context: ErrorContext,
  detail: string,
): ImageError {
  const { registry } = subject.context;
  return new ImageError(
    'ERR_IMAGE_AUTH',
    refusal.authenticated
      ? `${registry} refuses ${subject.what} to these credentials${detail}: check them and their rights`
      : `${registry} wants credentials for ${subject.what}${detail}: run "docker login ${registry}" or pass registryAuth`,
    { context },
  );
}

function viaProxy({ context }: Subject): string {
  return context.proxy === undefined ? '' : ` through the proxy ${context.proxy}`;
}

/** What undici makes of the answer of a proxy; it has no code of its own. */
function isProxyRefusal(error: unknown): boolean {
  return error instanceof Error && /\b[Pp]roxy\b.*\(407\)/.test(error.message);
}

function proxyRefusal(
  subject: Subject,
  options: { cause?: unknown; context: ErrorContext },
): ImageError {
  return new ImageError(
    'ERR_REGISTRY_UNAVAILABLE',
    `the proxy${subject.context.proxy === undefined ? '' : ` ${subject.context.proxy}`} wants credentials: put them into its address, as in http://user:password@proxy.example:3128`,
    options,
  );
}
