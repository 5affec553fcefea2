import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  ConfigError,
  createError,
  EmbervmError,
  type ErrorCode,
  errorTable,
  fromNative,
  HostError,
  MachineError,
  RpcError,
} from '../../lib/errors.js';
import { packageRoot } from '../../lib/native/package-root.js';

const codes = Object.keys(errorTable) as ErrorCode[];

/** Codes by the class under whose heading the page has them. */
function documentedCodes(): Record<string, string> {
  const found: Record<string, string> = {};
  let heading = '';
  for (const line of readFileSync(join(packageRoot(), 'docs/errors.md'), 'utf8').split('\n')) {
    heading = /^## (\w+Error)\b/.exec(line)?.[1] ?? heading;
    const cells = /^\| `(ERR_\w+)` \| (.+) \| (.+) \|$/.exec(line);
    if (cells?.[1] !== undefined) found[cells[1]] = heading;
  }
  return found;
}

function nativeSources(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return entry.name === 'test' ? [] : nativeSources(path);
    return /\.(h|cc)$/.test(entry.name) ? [path] : [];
  });
}

test('docs/errors.md has every code of the table, under its class, and no other', () => {
  expect(documentedCodes()).toEqual({ ...errorTable });
});

test('every code that the addon can raise is in the table', () => {
  const raised = new Set<string>();
  for (const path of nativeSources(join(packageRoot(), 'native'))) {
    for (const [, code] of readFileSync(path, 'utf8').matchAll(/"(ERR_[A-Z_]+)"/g)) {
      if (code !== undefined) raised.add(code);
    }
  }
  expect(raised.size).toBeGreaterThan(10);
  expect([...raised].filter((code) => !codes.includes(code as ErrorCode))).toEqual([]);
});

test('createError makes the class of the table, with name, code and cause', () => {
  for (const code of codes) {
    const cause = new Error('below');
    const error = createError(code, 'what happened', { cause });
    expect(error).toBeInstanceOf(EmbervmError);
    expect(error.name).toBe(errorTable[code]);
    expect(error.code).toBe(code);
    expect(error.cause).toBe(cause);
  }
});

test('instanceof tells the families apart', () => {
  const error = new ConfigError('ERR_INVALID_CONFIG', 'x');
  expect(error instanceof ConfigError).toBe(true);
  expect(error instanceof EmbervmError).toBe(true);
  expect(error instanceof HostError).toBe(false);
  expect(new Error('x') instanceof EmbervmError).toBe(false);
  expect((null as unknown) instanceof EmbervmError).toBe(false);
});

test('instanceof holds for an error of another copy of the package', async () => {
  const url = new URL('../../lib/errors.ts?second-copy', import.meta.url);
  const copy = (await import(url.href)) as typeof import('../../lib/errors.js');
  expect(copy.ConfigError).not.toBe(ConfigError);
  const error = new copy.ConfigError('ERR_INVALID_CONFIG', 'x');
  expect(error instanceof ConfigError).toBe(true);
  expect(error instanceof EmbervmError).toBe(true);
  expect(error instanceof RpcError).toBe(false);
});

test('instanceof of a class that a user derives is the usual one', () => {
  class Own extends ConfigError {}
  const own = new Own('ERR_INVALID_CONFIG', 'x');
  expect(own instanceof Own).toBe(true);
  expect(own instanceof ConfigError).toBe(true);
  expect(new ConfigError('ERR_INVALID_CONFIG', 'x') instanceof Own).toBe(false);
});

test('fromNative maps by code alone and keeps the facts', () => {
  const native = Object.assign(new Error('cannot open /x'), {
    code: 'ERR_KERNEL_NOT_FOUND',
    errno: 'ENOENT',
    syscall: 'open',
    context: { path: '/x' },
  });
  const error = fromNative(native);
  expect(error).toBeInstanceOf(MachineError);
  expect(error).toMatchObject({
    code: 'ERR_KERNEL_NOT_FOUND',
    message: 'cannot open /x',
    errno: 'ENOENT',
    syscall: 'open',
    context: { path: '/x' },
    cause: native,
  });
});

test.each([
  new Error('boom'),
  Object.assign(new Error('boom'), { code: 'toString' }),
  'boom',
  null,
])('fromNative answers %s with ERR_INTERNAL', (value) => {
  expect(fromNative(value)).toMatchObject({ code: 'ERR_INTERNAL', cause: value });
});

test('fromNative leaves our own errors alone', () => {
  const error = new HostError('ERR_NATIVE_MISSING', 'x');
  expect(fromNative(error)).toBe(error);
});

test('fields that are absent are not there', () => {
  const error = new EmbervmError('ERR_INTERNAL', 'x');
  expect('errno' in error).toBe(false);
  expect('cause' in error).toBe(false);
});
