/**
 * What the schemas use of zod, and nothing else: set-up replaces the compiled
 * form of this module by one file that holds it. Node needs 100 ms to find and
 * link zod's hundred files, a third of it in one piece that holds up the event
 * loop, and a fifth of that for the one file.
 */

export type * from 'zod';
export {
  array,
  boolean,
  custom,
  enum,
  int,
  partialRecord,
  record,
  strictObject,
  string,
  union,
} from 'zod';
