/**
 * The files of a log: `00000001.jsonl` and so on. The last is written to; the
 * first are deleted. No file is ever renamed, so a place stays a place.
 */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';

const DIGITS = 8;
const NAME = /^(\d{8})\.jsonl$/;

export function segmentPath(directory: string, segment: number): string {
  return join(directory, `${String(segment).padStart(DIGITS, '0')}.jsonl`);
}

/** Numbers of the files that are there, in order; none where there is no directory. */
export async function listSegments(directory: string): Promise<number[]> {
  let names: string[];
  try {
    names = await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return names
    .flatMap((name) => {
      const digits = NAME.exec(name)?.[1];
      return digits === undefined ? [] : [Number(digits)];
    })
    .sort((a, b) => a - b);
}
