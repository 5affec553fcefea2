/** Which entry of an index is for the platform that was asked for. */
import { ImageError } from '../errors.js';
import { type Descriptor, isObject, type JsonObject, shown } from './manifest-json.js';

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  /** Of amd64: the level of its instruction set, `v1` (the same as none) to `v4`. */
  readonly variant?: string | undefined;
}

export const DEFAULT_PLATFORM: Platform = { os: 'linux', architecture: 'amd64' };

const aliases: Readonly<Record<string, string>> = { x86_64: 'amd64', 'x86-64': 'amd64' };
const LEVELS: readonly string[] = ['v1', 'v2', 'v3', 'v4'];
const MAX_LISTED = 20;

export const architectureOf = (name: string): string =>
  Object.hasOwn(aliases, name.toLowerCase())
    ? (aliases[name.toLowerCase()] ?? name)
    : name.toLowerCase();

const levelOf = (variant: string | undefined): number => LEVELS.indexOf(variant || 'v1');

/** `linux/amd64/v3` in its parts. */
export function parsePlatform(text: string): Platform {
  const [os = '', architecture = '', variant, ...more] = text.toLowerCase().split('/');
  const platform = { os, architecture: architectureOf(architecture), variant };
  if (os !== 'linux' || platform.architecture !== 'amd64' || more.length > 0) {
    throw unsuitable(`a sandbox cannot run "${shown(text)}"; it runs linux/amd64`, text, []);
  }
  if (levelOf(variant) < 0) {
    throw unsuitable(`amd64 has no variant "${shown(variant ?? '')}"`, text, []);
  }
  return platform;
}

export function formatPlatform({ os, architecture, variant }: Platform): string {
  return [os, architecture, ...(variant ? [variant] : [])].join('/');
}

function platformOf(raw: JsonObject): Platform | undefined {
  const { platform } = raw;
  if (!isObject(platform)) return undefined;
  const { os, architecture, variant } = platform;
  if (typeof os !== 'string' || typeof architecture !== 'string') return undefined;
  return {
    os: os.toLowerCase(),
    architecture: architectureOf(architecture),
    variant: typeof variant === 'string' ? variant.toLowerCase() : undefined,
  };
}

/** How well an offer suits: the level of its instructions, or -1 when it does not run there. */
export function suitability(offer: Platform, wanted: Platform): number {
  if (offer.os !== wanted.os || offer.architecture !== wanted.architecture) return -1;
  const level = levelOf(offer.variant);
  return level <= levelOf(wanted.variant) ? level : -1;
}

/**
 * The entries worth a look, the best first. Those that do not tell their platform come last: the
 * configuration of an image tells it, too. Attestations call their platform "unknown".
 */
export function rankEntries(entries: readonly Descriptor[], wanted: Platform): Descriptor[] {
  const ranked = entries.map((entry) => {
    const platform = platformOf(entry.raw);
    return {
      entry,
      told: platform !== undefined,
      rank: platform ? suitability(platform, wanted) : 0,
    };
  });
  return ranked
    .filter(({ rank }) => rank >= 0)
    .sort((a, b) => Number(b.told) - Number(a.told) || b.rank - a.rank)
    .map(({ entry }) => entry);
}

export function listPlatforms(entries: readonly Descriptor[]): string[] {
  const names = entries.flatMap(({ raw }) => {
    const platform = platformOf(raw);
    return platform === undefined || platform.os === 'unknown' ? [] : [formatPlatform(platform)];
  });
  return [...new Set(names)].slice(0, MAX_LISTED).map(shown);
}

export function unsuitable(
  message: string,
  wanted: Platform | string,
  available: readonly string[],
): ImageError {
  const platform = typeof wanted === 'string' ? wanted : formatPlatform(wanted);
  return new ImageError('ERR_IMAGE_PLATFORM', message, {
    context: { platform: shown(platform), available: available.join(', ') },
  });
}
