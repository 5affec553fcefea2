/** How the images of a layout or an archive are called, and which one is meant. */
import { ImageError } from '../../errors.js';
import { shown } from '../manifest-json.js';
import { parseReference } from '../reference.js';

const MAX_LISTED = 10;

/** The canonical name for a text that is one, or null: a bare tag is no name of an image. */
export function canonicalName(text: string | undefined): string | null {
  if (text === undefined) return null;
  try {
    return parseReference(text).canonical;
  } catch {
    return null;
  }
}

/** An image that can be asked for by name. */
export interface Named {
  /** Canonical. */
  readonly reference: string | null;
  /** What else it answers to, as it is written: the tag of a layout. */
  readonly alias?: string | undefined;
}

/** The image that was asked for; without a name, the only one there is. */
export function choose<Image extends Named>(
  images: readonly Image[],
  wanted: string | undefined,
  path: string,
): Image {
  const canonical = canonicalName(wanted);
  const found =
    wanted === undefined
      ? images
      : images.filter(
          ({ reference, alias }) =>
            alias === wanted || (reference !== null && reference === canonical),
        );
  const [only] = found;
  if (only !== undefined && (wanted !== undefined || found.length === 1)) return only;
  const names = images.map(({ reference, alias }) => reference ?? alias ?? 'an unnamed one');
  const list = names.slice(0, MAX_LISTED).map(shown).join(', ');
  const what =
    images.length === 0
      ? 'has no image'
      : wanted === undefined
        ? `has several images, choose one by "reference": ${list}`
        : `has no image ${shown(wanted)}, but: ${list}`;
  throw new ImageError('ERR_IMAGE_NOT_FOUND', `${path} ${what}`, { context: { path } });
}
