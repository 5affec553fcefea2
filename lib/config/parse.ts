/**
 * The one door from caller's objects to ours: parses with zod and turns what
 * zod found into errors that name the option, the value and the bound.
 */

import { ConfigError } from '../errors.js';
import type * as z from './zod.js';

type Issue = z.core.$ZodIssue;

/** Set in `params` of a custom issue by {@link notBuilt}. */
interface NotBuiltParams {
  unsupported?: true;
}

/** Options whose values may be secrets: only their type is ever shown. */
const SECRET_ROOTS = new Set<PropertyKey>([
  'env',
  'stdin',
  'registryAuth',
  'auth',
  'registry',
  'registries',
]);
const MAX_SHOWN = 80;
/** zod would write and compile a function for each object schema: milliseconds for a parse or two. */
const NO_CODE_GENERATION = { jitless: true };

/** Parses `input`, or throws a `ConfigError` about the first problem of each option. */
export function parseConfig<Output>(
  schema: z.ZodMiniType<Output>,
  input: unknown,
  subject: string,
): Output {
  const parsed = schema.safeParse(input, NO_CODE_GENERATION);
  if (parsed.success) return parsed.data;
  const issues = parsed.error.issues.flatMap(flatten);
  const unsupported = issues.find(isNotBuilt);
  if (unsupported !== undefined) {
    const option = pathOf(unsupported);
    throw new ConfigError('ERR_UNSUPPORTED', `${subject}: ${unsupported.message}`, {
      context: { option },
    });
  }
  const lines = issues.map((issue) => describe(issue, input));
  throw new ConfigError('ERR_INVALID_CONFIG', `${subject}: ${[...new Set(lines)].join('; ')}`, {
    context: { option: issues[0] === undefined ? '' : pathOf(issues[0]) },
  });
}

/** A union reports every branch; the branch that got furthest is the one that was meant. */
function flatten(issue: Issue): Issue[] {
  if (issue.code !== 'invalid_union' || issue.errors.length === 0) return [issue];
  const depth = (branch: readonly Issue[]): number =>
    Math.max(0, ...branch.map((inner) => inner.path.length));
  const best = [...issue.errors].sort((a, b) => depth(b) - depth(a))[0] ?? [];
  if (depth(best) === 0 && !best.some((inner) => inner.code === 'custom')) return [issue];
  return best.flatMap((inner) => flatten({ ...inner, path: [...issue.path, ...inner.path] }));
}

function isNotBuilt(issue: Issue): boolean {
  return (
    issue.code === 'custom' && (issue.params as NotBuiltParams | undefined)?.unsupported === true
  );
}

function pathOf(issue: Issue): string {
  if (issue.code !== 'unrecognized_keys') return formatPath(issue.path);
  return formatPath([...issue.path, issue.keys[0] ?? '']);
}

function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((text, key) => {
    if (typeof key === 'number') return `${text}[${key}]`;
    return text === '' ? String(key) : `${text}.${String(key)}`;
  }, '');
}

function describe(issue: Issue, input: unknown): string {
  const path = pathOf(issue);
  const where = path === '' ? 'the options' : path;
  if (issue.code === 'unrecognized_keys') {
    const names = issue.keys.map((key) => formatPath([...issue.path, key]));
    return `unknown option${names.length > 1 ? 's' : ''} ${names.map((n) => JSON.stringify(n)).join(', ')}`;
  }
  const value = show(valueAt(input, issue.path), issue.path[0]);
  switch (issue.code) {
    case 'invalid_type':
      return `${where} must be ${article(issue.expected)}, not ${value}`;
    case 'too_small':
      return `${where} is ${value}, but must be ${issue.inclusive ? 'at least' : 'more than'} ${bound(issue.minimum, issue.origin)}${because(issue.message)}`;
    case 'too_big':
      return `${where} is ${value}, but must be ${issue.inclusive ? 'at most' : 'less than'} ${bound(issue.maximum, issue.origin)}${because(issue.message)}`;
    case 'invalid_value':
      return `${where} is ${value}, but must be ${issue.values.map((v) => show(v, undefined)).join(' or ')}`;
    case 'invalid_union':
      return `${where} is ${value}, which is none of the accepted forms${because(issue.message)}`;
    case 'invalid_key':
      return `${where} is not a good key: ${issue.issues[0]?.message ?? issue.message}`;
    default:
      return `${where} is ${value}: ${issue.message}`;
  }
}

/** Our own messages give the reason of a bound; zod's defaults only repeat it. */
function because(message: string): string {
  return /^(Too |Invalid )/.test(message) ? '' : `: ${message}`;
}

function article(expected: string): string {
  if (expected === 'int') return 'an integer';
  return /^[aeiou]/.test(expected) ? `an ${expected}` : `a ${expected}`;
}

function bound(limit: number | bigint, origin: string): string {
  if (origin === 'string') return `${limit} characters`;
  if (origin === 'array') return `${limit} entries`;
  return String(limit);
}

function valueAt(input: unknown, path: readonly PropertyKey[]): unknown {
  let value = input;
  for (const key of path) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value;
}

function show(value: unknown, root: PropertyKey | undefined): string {
  if (value === null || value === undefined) return String(value);
  if (root !== undefined && SECRET_ROOTS.has(root)) return article(typeof value);
  if (typeof value === 'string') return JSON.stringify(clip(value));
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint') {
    return String(value);
  }
  if (Array.isArray(value)) return 'an array';
  return article(typeof value);
}

function clip(text: string): string {
  return text.length <= MAX_SHOWN ? text : `${text.slice(0, MAX_SHOWN)}…`;
}
