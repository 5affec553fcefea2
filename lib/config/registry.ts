/** How registries are reached: mirrors, plain HTTP, trust roots, credentials, time limits. */
import { cleanText, hostPath, limitMs, nonEmptyText } from './common.js';
import { parseConfig } from './parse.js';
import * as z from './zod.js';

const MAX_RETRIES = 20;
const MAX_MIRRORS = 16;

/** A name and a password, or a token that a registry made for this use. */
export interface RegistryCredentials {
  username: string;
  password: string;
}

/** What is particular about one registry. */
export interface RegistryHostOptions {
  /**
   * Registries to ask first, in order: `mirror.example`, `http://10.0.0.1:5000`, or
   * `https://cache.example/hub` for one whose API is below a path. They never get the credentials
   * of the registry that they stand for.
   */
  mirrors?: readonly string[] | undefined;
  /** Speak HTTP without TLS. Default true for loopback addresses without a `ca`, else false. */
  insecure?: boolean | undefined;
  /** Certificates (PEM) to trust for this registry besides those that Node trusts. */
  ca?: string | undefined;
  /** In place of what Docker's configuration has. */
  auth?: RegistryCredentials | undefined;
}

export interface RegistryOptions {
  /** By the registry's name as it is in references: `docker.io`, `registry.example:5000`. */
  registries?: Readonly<Record<string, RegistryHostOptions>> | undefined;
  /**
   * Path of Docker's configuration, whose credentials and credential helpers are used; false for
   * none. Default `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`, when it is there.
   */
  dockerConfig?: string | false | undefined;
  /**
   * The address of an HTTP proxy, for all but loopback addresses; false for none. Default: what
   * `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
   */
  proxy?: string | false | undefined;
  /** Until a connection is there, TLS included; default 15 s. */
  connectTimeoutMs?: number | undefined;
  /** Until the answer begins; default 30 s. */
  headersTimeoutMs?: number | undefined;
  /** Without a byte in the middle of an answer; default 30 s. */
  idleTimeoutMs?: number | undefined;
  /** How often a request that may succeed later is repeated; default 4. */
  retries?: number | undefined;
  /** The first pause before a repetition, which doubles each time; default 250 ms. */
  retryDelayMs?: number | undefined;
  /** The longest that a registry may ask to wait (`Retry-After`); default 60 s. */
  maxRetryAfterMs?: number | undefined;
}

export interface ResolvedRegistryOptions {
  registries: Readonly<Record<string, RegistryHostOptions>>;
  dockerConfig?: string | false | undefined;
  proxy?: string | false | undefined;
  connectTimeoutMs: number;
  headersTimeoutMs: number;
  idleTimeoutMs: number;
  retries: number;
  retryDelayMs: number;
  maxRetryAfterMs: number;
}

/** An address is one that `URL` reads, with nothing but scheme, host, port and path. */
function isMirror(text: string): boolean {
  if (!/^https?:\/\//.test(text)) return /^[\w.[\]:-]+$/.test(text) && isMirror(`https://${text}`);
  if (!URL.canParse(text)) return false;
  const url = new URL(text);
  return `${url.username}${url.password}${url.search}${url.hash}` === '';
}

export const registryCredentials: z.ZodMiniType<RegistryCredentials> = z.strictObject({
  username: nonEmptyText.check(z.refine((name) => !name.includes(':'), 'must not contain ":"')),
  password: cleanText,
});

const host: z.ZodMiniType<RegistryHostOptions> = z.strictObject({
  mirrors: z.optional(
    z
      .array(
        nonEmptyText.check(
          z.refine(isMirror, 'must be a host with an optional port, or an http(s) address'),
        ),
      )
      .check(z.maxLength(MAX_MIRRORS)),
  ),
  insecure: z.optional(z.boolean()),
  ca: z.optional(
    z
      .string()
      .check(
        z.refine(
          (pem) => pem.includes('-----BEGIN CERTIFICATE-----'),
          'must be certificates in PEM',
        ),
      ),
  ),
  auth: z.optional(registryCredentials),
});

const never = z.custom<false>((value) => value === false);

const registry: z.ZodMiniType<ResolvedRegistryOptions> = z.strictObject({
  registries: z._default(z.record(nonEmptyText, host), {}),
  dockerConfig: z.optional(z.union([hostPath, never])),
  proxy: z.optional(z.union([nonEmptyText, never])),
  connectTimeoutMs: z._default(limitMs, 15_000),
  headersTimeoutMs: z._default(limitMs, 30_000),
  idleTimeoutMs: z._default(limitMs, 30_000),
  retries: z._default(z.int().check(z.gte(0), z.lte(MAX_RETRIES)), 4),
  retryDelayMs: z._default(limitMs, 250),
  maxRetryAfterMs: z._default(limitMs, 60_000),
});

/** As a part of other options: checked there, and completed where it is used. */
export const registryOptions: z.ZodMiniType<RegistryOptions> = registry;

export function parseRegistryOptions(input: unknown): ResolvedRegistryOptions {
  return parseConfig(registry, input ?? {}, 'invalid registry options');
}
