/** The media types of images: which document, and how a layer is packed. */
import { ImageError } from '../errors.js';
import type { LayerCompression } from './source.js';

export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json';
export const DOCKER_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json';
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';
export const DOCKER_CONFIG = 'application/vnd.docker.container.image.v1+json';

const DOCKER_LAYER = 'application/vnd.docker.image.rootfs.diff.tar';
const OCI_LAYER = 'application/vnd.oci.image.layer.v1.tar';
const OCI_RESTRICTED_LAYER = 'application/vnd.oci.image.layer.nondistributable.v1.tar';

const indexTypes: ReadonlySet<string> = new Set([OCI_INDEX, DOCKER_LIST]);
const manifestTypes: ReadonlySet<string> = new Set([OCI_MANIFEST, DOCKER_MANIFEST]);
const configTypes: ReadonlySet<string> = new Set([OCI_CONFIG, DOCKER_CONFIG]);
const schema1Types: ReadonlySet<string> = new Set([
  'application/vnd.docker.distribution.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
]);

/** What servers say of JSON and bytes that they know nothing about. */
const genericTypes: ReadonlySet<string> = new Set([
  '',
  'application/json',
  'application/octet-stream',
  'binary/octet-stream',
  'text/plain',
]);

/** Of layers. Foreign layers of Docker are elsewhere, at any address: those are not here. */
const compressions: ReadonlyMap<string, LayerCompression> = new Map([
  [DOCKER_LAYER, 'none'],
  [`${DOCKER_LAYER}.gzip`, 'gzip'],
  [`${DOCKER_LAYER}.zstd`, 'zstd'],
  [OCI_LAYER, 'none'],
  [`${OCI_LAYER}+gzip`, 'gzip'],
  [`${OCI_LAYER}+zstd`, 'zstd'],
  [OCI_RESTRICTED_LAYER, 'none'],
  [`${OCI_RESTRICTED_LAYER}+gzip`, 'gzip'],
  [`${OCI_RESTRICTED_LAYER}+zstd`, 'zstd'],
]);

/** For the `Accept` header of a manifest. */
export const acceptedManifests: string = [...indexTypes, ...manifestTypes].join(', ');

export type DocumentKind = 'index' | 'manifest';

/** The type in a header may have parameters; case does not count. */
export function bareType(header: string | undefined): string {
  return (header ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? '';
}

/** Undefined for types that say nothing. */
export function documentKindOf(type: string, what: string): DocumentKind | undefined {
  if (indexTypes.has(type)) return 'index';
  if (manifestTypes.has(type)) return 'manifest';
  if (genericTypes.has(type)) return undefined;
  if (schema1Types.has(type)) {
    return refuseType(type, `${what} is in Docker's old schema 1: push it again with a newer tool`);
  }
  return refuseType(
    type,
    `${what} is neither an image nor an index of images, but of type ${type}`,
  );
}

export function checkConfigType(type: string, what: string): void {
  if (!configTypes.has(type)) {
    refuseType(type, `${what} is no image that can run: its configuration is of type ${type}`);
  }
}

export function compressionOf(type: string, what: string): LayerCompression {
  return (
    compressions.get(type) ??
    refuseType(type, `${what} is of type ${type}, which is no layer that can be unpacked`)
  );
}

function refuseType(mediaType: string, message: string): never {
  throw new ImageError('ERR_IMAGE_MEDIA_TYPE', message, { context: { mediaType } });
}

/** The packed form of a layer, for archives that do not tell. */
export function layerTypeOf(compression: LayerCompression): string {
  return compression === 'none' ? DOCKER_LAYER : `${DOCKER_LAYER}.${compression}`;
}
