/**
 * What the schemas use of zod, and nothing else: set-up replaces the compiled form of this module
 * by one file that holds it. Node needs 100 ms to find and link zod's hundred files, a third of it
 * in one piece that holds up the event loop. Of its two surfaces this is the small one: compiling
 * it takes a third of the time, and so does making a schema, which has no methods to be bound.
 */

export type * from 'zod/mini';
export {
  _default,
  array,
  boolean,
  custom,
  describe,
  enum,
  extend,
  gte,
  int,
  lte,
  maxLength,
  minLength,
  NEVER,
  nullable,
  optional,
  partialRecord,
  pick,
  pipe,
  prefault,
  record,
  refine,
  regex,
  strictObject,
  string,
  superRefine,
  transform,
  union,
} from 'zod/mini';
