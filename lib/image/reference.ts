/**
 * Names of images, in the grammar of the distribution project: `[registry/]path[:tag][@digest]`,
 * with the defaults that everybody knows from Docker. The name is data until it has gone through
 * here; afterwards its parts are safe in a URL.
 */
import { ImageError } from '../errors.js';

/** What a name without a registry means, and where that registry's API is. */
const DEFAULT_REGISTRY = 'docker.io';
const DEFAULT_REGISTRY_ALIAS = 'index.docker.io';
const DEFAULT_REGISTRY_HOST = 'registry-1.docker.io';
const OFFICIAL_PREFIX = 'library/';
const DEFAULT_TAG = 'latest';

const MAX_PATH = 255;
/** The longest of each part together, so that no pattern sees an endless text. */
const MAX_REFERENCE = 1024;
const MAX_SHOWN = 100;

const HOST_LABEL = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])';
const REGISTRY = new RegExp(
  `^(?:${HOST_LABEL}(?:\\.${HOST_LABEL})*|\\[(?:[a-fA-F0-9:]+)\\])(?::([0-9]{1,5}))?$`,
);
const PATH_COMPONENT = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const DIGEST = /^sha256:[a-f0-9]{64}$/;
const IDENTIFIER = /^[a-f0-9]{64}$/;

export interface ImageReference {
  /** Host and port as they were written, `docker.io` for a name without. */
  readonly registry: string;
  /** `library/python` */
  readonly repository: string;
  /** `latest` when neither a tag nor a digest was given; null when only a digest was. */
  readonly tag: string | null;
  /** Which image it has to be; it is what counts when there is a tag, too. */
  readonly digest: string | null;
  /** The whole name: `docker.io/library/python:3.12`. Two names of one image are equal. */
  readonly canonical: string;
  /** The short name that people write: `python:3.12`. */
  readonly familiar: string;
}

function refuse(text: string, why: string): never {
  const shown = text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text;
  throw new ImageError(
    'ERR_IMAGE_REFERENCE',
    `${JSON.stringify(shown)} is not the name of an image: ${why}`,
    { context: { reference: shown } },
  );
}

/** Whether the part before the first slash is a registry, and not the first part of a path. */
function isRegistry(part: string): boolean {
  return /[.:]/.test(part) || part === 'localhost' || part.toLowerCase() !== part;
}

interface Parts {
  name: string;
  tag: string | null;
  digest: string | null;
}

/** Takes the tag and the digest off: a colon before the last slash is that of a port. */
function split(text: string): Parts {
  const at = text.indexOf('@');
  const digest = at < 0 ? null : text.slice(at + 1);
  const rest = at < 0 ? text : text.slice(0, at);
  const colon = rest.indexOf(':', rest.lastIndexOf('/') + 1);
  if (colon < 0) return { name: rest, tag: null, digest };
  return { name: rest.slice(0, colon), tag: rest.slice(colon + 1), digest };
}

function checkRegistry(text: string, registry: string): void {
  const match = REGISTRY.exec(registry);
  if (match === null) refuse(text, `"${registry}" is not a host with an optional port`);
  if (match[1] !== undefined && (Number(match[1]) < 1 || Number(match[1]) > 0xffff)) {
    refuse(text, `${match[1]} is not a port`);
  }
}

function checkPath(text: string, path: string): void {
  if (path === '') refuse(text, 'the repository is missing');
  if (path.length > MAX_PATH) refuse(text, `the repository has more than ${MAX_PATH} characters`);
  if (path.toLowerCase() !== path) refuse(text, 'the repository must be in lower case');
  const bad = path.split('/').find((component) => !PATH_COMPONENT.test(component));
  if (bad !== undefined) {
    refuse(
      text,
      bad === ''
        ? 'a part of the repository is empty'
        : `"${bad}" is not made of letters and digits, with single ".", "_", "__" or dashes between`,
    );
  }
}

/** Reads a name as Docker does, or throws `ERR_IMAGE_REFERENCE` and says what is wrong with it. */
export function parseReference(text: string): ImageReference {
  if (text === '') refuse(text, 'it is empty');
  if (text.length > MAX_REFERENCE) refuse(text, `it has more than ${MAX_REFERENCE} characters`);
  if (/^[a-z]+:\/\//i.test(text)) refuse(text, 'it is an address; leave out the scheme');
  const { name, tag, digest } = split(text);
  if (tag !== null && !TAG.test(tag)) {
    refuse(
      text,
      'the tag must have 1 to 128 letters, digits, "_", "." or "-", not "." or "-" first',
    );
  }
  if (digest !== null && !DIGEST.test(digest)) {
    refuse(text, 'the digest must be "sha256:" and 64 hexadecimal digits in lower case');
  }
  const slash = name.indexOf('/');
  const first = name.slice(0, Math.max(slash, 0));
  const explicit = slash >= 0 && isRegistry(first);
  const host = explicit ? first : DEFAULT_REGISTRY;
  const registry = host === DEFAULT_REGISTRY_ALIAS ? DEFAULT_REGISTRY : host;
  const path = explicit ? name.slice(slash + 1) : name;
  checkRegistry(text, registry);
  checkPath(text, path);
  if (!explicit && IDENTIFIER.test(path)) refuse(text, '64 hexadecimal digits are an image ID');
  return makeReference(registry, path, tag, digest);
}

function makeReference(
  registry: string,
  path: string,
  givenTag: string | null,
  digest: string | null,
): ImageReference {
  const official = registry === DEFAULT_REGISTRY && !path.includes('/');
  const repository = official ? OFFICIAL_PREFIX + path : path;
  const tag = givenTag ?? (digest === null ? DEFAULT_TAG : null);
  const suffix = (tag === null ? '' : `:${tag}`) + (digest === null ? '' : `@${digest}`);
  return {
    registry,
    repository,
    tag,
    digest,
    canonical: `${registry}/${repository}${suffix}`,
    familiar: shortNameOf(registry, repository) + suffix,
  };
}

/** The shortest name that is read as the same repository again. */
function shortNameOf(registry: string, repository: string): string {
  const full = `${registry}/${repository}`;
  if (registry !== DEFAULT_REGISTRY) return full;
  const rest = repository.slice(OFFICIAL_PREFIX.length);
  if (repository.startsWith(OFFICIAL_PREFIX) && !rest.includes('/')) {
    return IDENTIFIER.test(rest) ? full : rest;
  }
  return isRegistry(repository.slice(0, repository.indexOf('/'))) ? full : repository;
}

/** The host, with its port, at which the API of a registry answers. */
export function apiHostOf(registry: string): string {
  return registry === DEFAULT_REGISTRY ? DEFAULT_REGISTRY_HOST : registry;
}

/** The name under which Docker's configuration and its helpers keep the credentials. */
export function credentialKeyOf(registry: string): string {
  return registry === DEFAULT_REGISTRY ? `https://${DEFAULT_REGISTRY_ALIAS}/v1/` : registry;
}
