/**
 * Docker's configuration: credentials in the file, or behind a program that keeps them
 * (docker-credential-helpers). What it has to say is read afresh for each source, because `docker
 * login` changes it.
 */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { abortedError, ImageError } from '../../errors.js';
import { isObject, type JsonObject } from '../manifest-json.js';
import { credentialKeyOf } from '../reference.js';

export interface Credentials {
  readonly username: string;
  readonly password: string;
  /** A refresh token for OAuth2, which takes the place of the password. */
  readonly identityToken?: string | undefined;
  /** A token that is sent as it is. */
  readonly registryToken?: string | undefined;
}

const HELPER_TIMEOUT_MS = 60_000;
const HELPER_MAX_OUTPUT = 1024 * 1024;
/** It becomes the name of a program: no path. */
const HELPER_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
/** What helpers print when they have nothing for a server (credentials/error.go). */
const NOT_FOUND = 'credentials not found in native keychain';
/** The user name of helpers for an identity token. */
const TOKEN_USER = '<token>';

function fail(message: string, registry: string, cause?: unknown): never {
  throw new ImageError('ERR_REGISTRY_CREDENTIALS', message, { cause, context: { registry } });
}

export function dockerConfigPath(): string {
  return join(process.env.DOCKER_CONFIG || join(homedir(), '.docker'), 'config.json');
}

/** The credentials for a registry, or undefined when there are none. */
export async function findCredentials(
  registry: string,
  path: string | undefined,
  signal?: AbortSignal,
): Promise<Credentials | undefined> {
  const config = await readConfig(path ?? dockerConfigPath(), path !== undefined, registry);
  if (config === undefined) return undefined;
  const key = credentialKeyOf(registry);
  const helper = helperFor(config, registry);
  const kept = helper === undefined ? undefined : await askHelper(helper, key, registry, signal);
  return kept ?? fromFile(config, registry);
}

async function readConfig(
  path: string,
  required: boolean,
  registry: string,
): Promise<JsonObject | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (!required && (code === 'ENOENT' || code === 'ENOTDIR' || code === 'EACCES')) {
      return undefined;
    }
    return fail(`${path} cannot be read: ${code}`, registry, error);
  }
  try {
    const config: unknown = JSON.parse(text);
    if (isObject(config)) return config;
  } catch {
    // The parser's message quotes the text, which has secrets.
  }
  return fail(`${path} is not a JSON object`, registry);
}

/** Keys may be addresses, of the days when they had to be. */
function hostOfKey(key: string): string {
  return key.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
}

function entryOf(table: unknown, registry: string): unknown {
  if (!isObject(table)) return undefined;
  const key = credentialKeyOf(registry);
  if (Object.hasOwn(table, key)) return table[key];
  if (Object.hasOwn(table, registry)) return table[registry];
  const host = hostOfKey(key);
  const alias = Object.keys(table).find((name) => hostOfKey(name) === host);
  return alias === undefined ? undefined : table[alias];
}

function helperFor(config: JsonObject, registry: string): string | undefined {
  const own = entryOf(config.credHelpers, registry);
  const name = own ?? config.credsStore;
  if (name === undefined || name === '' || name === null) return undefined;
  if (typeof name === 'string' && HELPER_NAME.test(name)) return name;
  return fail('the Docker configuration names a credential helper that cannot be one', registry);
}

function fromFile(config: JsonObject, registry: string): Credentials | undefined {
  const entry = entryOf(config.auths, registry);
  if (!isObject(entry)) return undefined;
  const text = (key: string): string | undefined => {
    const value = entry[key];
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
  const identityToken = text('identitytoken');
  const registryToken = text('registrytoken');
  const pair = decodePair(text('auth'), registry);
  const username = text('username') ?? pair?.username ?? '';
  const password = text('password') ?? pair?.password ?? '';
  if (username === '' && identityToken === undefined && registryToken === undefined) {
    return undefined;
  }
  return { username, password, identityToken, registryToken };
}

function decodePair(auth: string | undefined, registry: string): Credentials | undefined {
  if (auth === undefined) return undefined;
  const pair = Buffer.from(auth, 'base64').toString('utf8');
  const colon = pair.indexOf(':');
  if (colon <= 0)
    fail(`the "auth" for ${registry} in the Docker configuration is broken`, registry);
  // Old versions of Docker padded it with NUL bytes.
  const password = pair.slice(colon + 1).replace(/\0+$/, '');
  return { username: pair.slice(0, colon), password };
}

interface HelperResult {
  error: Error | null;
  output: string;
}

/** `docker-credential-<name> get`: the server goes in by stdin, JSON or a message comes out. */
function runHelper(
  program: string,
  server: string,
  signal: AbortSignal | undefined,
): Promise<HelperResult> {
  return new Promise((resolve) => {
    const options = {
      timeout: HELPER_TIMEOUT_MS,
      maxBuffer: HELPER_MAX_OUTPUT,
      ...(signal === undefined ? {} : { signal }),
    };
    const child = execFile(program, ['get'], options, (error, stdout) =>
      resolve({ error, output: stdout }),
    );
    // A helper may end without reading; its exit code tells what matters.
    child.stdin?.on('error', () => {});
    child.stdin?.end(server);
  });
}

async function askHelper(
  name: string,
  server: string,
  registry: string,
  signal: AbortSignal | undefined,
): Promise<Credentials | undefined> {
  const program = `docker-credential-${name}`;
  const { error, output } = await runHelper(program, server, signal);
  if (signal?.aborted) throw abortedError(signal, 'asking for credentials');
  if (error !== null) {
    if (output.trim() === NOT_FOUND) return undefined;
    const { code, killed } = error as NodeJS.ErrnoException & { killed?: boolean };
    const why =
      code === 'ENOENT'
        ? 'it is not installed'
        : killed
          ? 'it did not answer'
          : `exit code ${code}`;
    // Not the error itself: its text may have what the helper printed.
    return fail(`the credential helper ${program} failed for ${registry}: ${why}`, registry);
  }
  const { Username: username, Secret: secret } = parseAnswer(output, program, registry);
  if (typeof username !== 'string' || typeof secret !== 'string' || secret === '') {
    return fail(`the credential helper ${program} gave no credentials for ${registry}`, registry);
  }
  return username === TOKEN_USER
    ? { username: '', password: '', identityToken: secret }
    : { username, password: secret };
}

function parseAnswer(output: string, program: string, registry: string): JsonObject {
  try {
    const answer: unknown = JSON.parse(output);
    if (isObject(answer)) return answer;
  } catch {
    // The parser's message quotes the text, which has secrets.
  }
  return fail(`the credential helper ${program} did not answer JSON`, registry);
}
