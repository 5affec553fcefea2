/** What an image says about how its programs are to be run. It comes from outside. */
import { ImageError } from '../../errors.js';

const MAX_ENTRIES = 4096;

/** Of the OCI image configuration, what has a meaning for a sandbox. */
export interface ImageConfig {
  env: Record<string, string>;
  /** As `user` of a sandbox; absent: root. */
  user?: string;
  /** Absolute. */
  workdir?: string;
  entrypoint: string[];
  cmd: string[];
  labels: Record<string, string>;
  exposedPorts: string[];
  stopSignal?: string;
  architecture: string;
  os: string;
  /** ISO 8601, as the image says it. */
  created?: string;
}

type Fields = Record<string, unknown>;

/** `bytes` is the configuration as it is in the registry. */
export function parseImageConfig(bytes: Uint8Array, digest: string): ImageConfig {
  const fail = (what: string): never => {
    throw new ImageError(
      'ERR_IMAGE_INVALID',
      `the configuration ${digest} of the image is wrong: ${what}`,
      { context: { digest } },
    );
  };
  let top: Fields;
  try {
    top = fieldsOf(JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)));
  } catch {
    return fail('it is no JSON object');
  }
  let run: Fields = {};
  try {
    if (top.config != null) run = fieldsOf(top.config);
  } catch {
    return fail('its config is no object');
  }
  const text = (value: unknown, name: string): string | undefined => {
    if (value == null || value === '') return undefined;
    if (typeof value === 'string' && !value.includes('\0')) return value;
    return fail(`${name} is no text`);
  };
  const list = (value: unknown, name: string): string[] => {
    if (value == null) return [];
    if (!Array.isArray(value) || value.length > MAX_ENTRIES) return fail(`${name} is no list`);
    return value.map((entry) => {
      const good = typeof entry === 'string' && !entry.includes('\0');
      return good ? entry : fail(`${name} has an entry that is no text`);
    });
  };
  const map = (value: unknown, name: string): [string, unknown][] => {
    if (value == null) return [];
    if (typeof value !== 'object') return fail(`${name} is no object`);
    const entries = Object.entries(value);
    return entries.length <= MAX_ENTRIES ? entries : fail(`${name} has too many entries`);
  };
  const labels = map(run.Labels, 'Labels').map(([key, value]) => [
    key,
    text(value, `the label ${key}`) ?? '',
  ]);
  const user = text(run.User, 'User');
  const workdir = text(run.WorkingDir, 'WorkingDir');
  const stopSignal = text(run.StopSignal, 'StopSignal');
  const created = text(top.created, 'created');
  return {
    env: Object.fromEntries(list(run.Env, 'Env').flatMap(variable)),
    ...(user === undefined ? {} : { user }),
    ...(workdir === undefined ? {} : { workdir: absolute(workdir) }),
    entrypoint: list(run.Entrypoint, 'Entrypoint'),
    cmd: list(run.Cmd, 'Cmd'),
    labels: Object.fromEntries(labels),
    exposedPorts: map(run.ExposedPorts, 'ExposedPorts').map(([port]) => port),
    ...(stopSignal === undefined ? {} : { stopSignal }),
    architecture: text(top.architecture, 'architecture') ?? '',
    os: text(top.os, 'os') ?? '',
    ...(created === undefined ? {} : { created }),
  };
}

function fieldsOf(value: unknown): Fields {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields;
  throw new TypeError('no object');
}

/** `NAME=value`; one without a value has no meaning here. */
function variable(entry: string): [string, string][] {
  const at = entry.indexOf('=');
  return at <= 0 ? [] : [[entry.slice(0, at), entry.slice(at + 1)]];
}

function absolute(path: string): string {
  return path.startsWith('/') ? path : `/${path}`;
}
