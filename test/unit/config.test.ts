import { totalmem } from 'node:os';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { checkCommandBytes, parseCommand, parseExecOptions } from '../../lib/config/exec.js';
import { memoryFileMib } from '../../lib/config/host-limits.js';
import {
  parseMachineConfig,
  parsePort,
  parseResizeMemory,
  parseStopOptions,
} from '../../lib/config/machine.js';
import { parseSandboxOptions } from '../../lib/config/sandbox.js';
import { ConfigError } from '../../lib/errors.js';
import { thrown } from '../helpers/rejection.js';

const hostMib = Math.floor(totalmem() / 2 ** 20);
const machine = { kernel: { path: '/k' }, vcpus: 1, memoryMib: 64 };

describe('defaults', () => {
  test('of a sandbox', () => {
    expect(parseSandboxOptions(undefined)).toEqual({
      cpus: 1,
      maxCpus: 1,
      memoryMib: 512,
      maxMemoryMib: 512,
      mounts: [],
      patches: [],
      pullPolicy: 'if-missing',
      env: {},
      shell: '/bin/sh',
      rootDiskMib: 4096,
      kernel: { args: [] },
      bootTimeoutMs: 120_000,
      securityProfile: 'default',
      scripts: {},
      labels: {},
      ephemeral: true,
      logLevel: 'info',
      quietLogs: false,
    });
  });

  test('of a sandbox with a name: it is kept', () => {
    expect(parseSandboxOptions({ name: 'a' }).ephemeral).toBe(false);
    expect(parseSandboxOptions({ name: 'a', ephemeral: true }).ephemeral).toBe(true);
    expect(parseSandboxOptions({ ephemeral: false }).ephemeral).toBe(false);
  });

  test('of a replacement: as long as of a stop', () => {
    expect(parseSandboxOptions({ replace: true }).replaceMs).toBe(10_000);
    expect(parseSandboxOptions({ replace: { timeoutMs: 0 } }).replaceMs).toBe(0);
    expect(parseSandboxOptions({ replace: false }).replaceMs).toBeUndefined();
  });

  test('of a machine', () => {
    expect(parseMachineConfig({ ...machine, vsock: {}, drives: [{ path: '/d' }] })).toEqual({
      kernel: { path: '/k', args: [] },
      vcpus: 1,
      memoryMib: 64,
      drives: [{ path: '/d', format: 'raw', readOnly: false, cache: 'writeback' }],
      hotplugSlots: 0,
      balloon: false,
      vsock: { cid: 3 },
      console: 'capture',
      consoleBytes: 65_536,
      sharedDirs: [],
      rng: true,
    });
  });

  test('of a command', () => {
    expect(parseExecOptions(undefined)).toEqual({
      env: {},
      stdin: 'null',
      encoding: 'utf8',
      maxBuffer: 16 * 2 ** 20,
      rlimits: [],
    });
  });

  test('of a stop', () => {
    expect(parseStopOptions(undefined)).toEqual({ timeoutMs: 10_000 });
  });
});

/** Input, and what the message must say: the option, the value, the bound. */
type Case = [input: unknown, ...says: string[]];

function refuses(parse: (input: unknown) => unknown, cases: Case[]): void {
  const named = cases.map(([input, ...says]) => ({ title: says.join(', '), input, says }));
  test.each(named)('$title', ({ input, says }) => {
    const error = thrown(() => parse(input));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.code).toBe('ERR_INVALID_CONFIG');
    for (const text of says) expect(error.message).toContain(text);
  });
}

describe('sandbox options that are wrong', () => {
  refuses(parseSandboxOptions, [
    [{ cpu: 1 }, 'unknown option "cpu"'],
    [{ kernel: { pth: '/k' } }, 'unknown option "kernel.pth"'],
    [{ cpus: 0 }, 'cpus is 0', 'at least 1'],
    [{ cpus: 33 }, 'cpus is 33', 'at most 32'],
    [{ cpus: 2, maxCpus: 1 }, 'maxCpus', 'not be less than cpus'],
    [{ cpus: 1.5 }, 'cpus must be an integer, not 1.5'],
    [{ memoryMib: 0 }, 'memoryMib is 0', 'at least 32', 'do not fit'],
    [{ memoryMib: 31 }, 'memoryMib is 31', 'at least 32'],
    [{ memoryMib: 100.5 }, 'memoryMib must be an integer, not 100.5'],
    [{ memoryMib: hostMib + 1 }, `memoryMib is ${hostMib + 1}`, `at most ${hostMib}`],
    [{ memoryMib: '512' }, 'memoryMib must be a number, not "512"'],
    [{ memoryMib: 64, maxMemoryMib: 60 }, 'maxMemoryMib', 'not be less than memoryMib'],
    [{ memoryMib: 64, maxMemoryMib: 65 }, 'maxMemoryMib', 'a multiple of 4'],
    [{ memoryMib: Number.NaN }, 'memoryMib must be a number, not NaN'],
    [{ name: '' }, 'name is ""', 'must not be empty'],
    [{ name: '-a' }, 'name is "-a"', 'starts with a letter or digit'],
    [{ name: 'a/b' }, 'name is "a/b"', 'contains only'],
    [{ name: '..' }, 'name is ".."'],
    [{ name: 'a\n' }, 'contains only'],
    [{ name: 'a'.repeat(129) }, 'at most 128 bytes'],
    [{ hostname: 'h'.repeat(65) }, 'hostname', 'at most 64 bytes'],
    [{ hostname: '' }, 'hostname is ""', 'must not be empty'],
    [{ env: { 'A=B': 'x' } }, 'env.A=B', 'must not be empty or contain "="'],
    [{ env: { A: 1 } }, 'env.A must be a string, not a number'],
    [{ env: { A: 'x\0' } }, 'env.A is a string', 'NUL'],
    [{ workdir: 'tmp' }, 'workdir is "tmp"', 'absolute'],
    [{ shell: 'sh' }, 'shell is "sh"', 'absolute'],
    [{ user: '' }, 'user is ""'],
    [{ rootDiskMib: 63 }, 'rootDiskMib is 63', 'at least 64'],
    [{ rootDiskMib: 262_145 }, 'rootDiskMib is 262145', 'at most 262144'],
    [{ kernel: { path: '' } }, 'kernel.path is ""'],
    [{ kernel: { args: ['a\nb'] } }, 'kernel.args[0]', 'control characters'],
    [{ bootTimeoutMs: 0 }, 'bootTimeoutMs is 0', 'at least 1'],
    [{ bootTimeoutMs: 2 ** 31 }, 'bootTimeoutMs is 2147483648', 'at most 2147483647'],
    [{ onProgress: 1 }, 'onProgress is 1', 'function'],
    [{ logLevel: 'loud' }, 'logLevel is "loud"'],
    [{ quietLogs: 1 }, 'quietLogs must be a boolean'],
    [{ ephemeral: 1 }, 'ephemeral must be a boolean'],
    [{ replace: 1 }, 'replace is 1'],
    [{ replace: { timeoutMs: -1 } }, 'replace.timeoutMs is -1', 'at least 0'],
    [{ replace: { timeout: 1 } }, 'unknown option "replace.timeout"'],
    [{ maxDurationMs: 0 }, 'maxDurationMs is 0', 'at least 1'],
    [{ idleTimeoutMs: 1.5 }, 'idleTimeoutMs must be an integer'],
    [{ labels: { 'embervm.x': '' } }, 'labels.embervm.x', 'reserved'],
    [{ labels: { 'sandbox.x': '' } }, 'reserved'],
    [{ labels: { 'service.x': '' } }, 'reserved'],
    [{ labels: { '': '' } }, 'a label key has'],
    [{ labels: { 'a b': '' } }, 'a label key has'],
    [{ labels: { ['a'.repeat(129)]: '' } }, 'a label key has'],
    [{ labels: { a: 1 } }, 'labels.a must be a string'],
    [{ labels: { a: 'x\0' } }, 'NUL'],
    [{ labels: { a: 'ü'.repeat(513) } }, 'at most 1024 bytes'],
    [
      { labels: Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`k${n}`, ''])) },
      'at most 64 labels',
    ],
    [{ signal: {} }, 'signal is an object', 'AbortSignal'],
    [null, 'the options must be an object'],
    ['x', 'the options must be an object, not "x"'],
  ]);

  test('all of them are named at once', () => {
    const error = thrown(() => parseSandboxOptions({ cpus: 0, memoryMib: 1, foo: 1 }));
    for (const text of ['cpus', 'memoryMib', '"foo"']) expect(error.message).toContain(text);
    expect(error.context.option).toBe('cpus');
  });

  test('the values of the environment are not shown', () => {
    const error = thrown(() => parseSandboxOptions({ env: { KEY: 'hush\0hush' } }));
    expect(error.message).not.toContain('hush');
  });

  test('a long value is cut', () => {
    const error = thrown(() => parseSandboxOptions({ shell: 'x'.repeat(10_000) }));
    expect(error.message.length).toBeLessThan(300);
  });
});

describe('names that are right', () => {
  test.each(['a', '0', 'A.b_c-d', 'a'.repeat(128)])('%s', (name) => {
    expect(parseSandboxOptions({ name }).name).toBe(name);
  });
});

describe('what is not built yet', () => {
  test.each([
    ['detached', true],
    ['network', { mode: 'nat' }],
  ])('the sandbox option %s is refused by name', (option, value) => {
    const error = thrown(() => parseSandboxOptions({ [option]: value }));
    expect(error.code).toBe('ERR_UNSUPPORTED');
    expect(error.message).toContain(`"${option}"`);
    expect(error.context.option).toBe(option);
  });

  test.each([
    { detached: false, ephemeral: true, replace: false },
    { network: 'none', warmStart: 'auto', securityProfile: 'default' },
    { warmStart: 'off', image: undefined },
    { image: 'python:3.12', pullPolicy: 'always', entrypoint: [] },
    { image: { archive: '/image.tar', reference: 'python:3.12' } },
    { registryAuth: { username: 'u', password: 'p' } },
    { vmFactory: { newVm: async () => ({}) } },
    { cpus: 2, maxCpus: 4 },
  ])('%j is what this version does', (options) => {
    expect(() => parseSandboxOptions(options)).not.toThrow();
  });

  test.each([
    ['warmStart', { warmStart: 'always' }],
    ['vmFactory', { vmFactory: {} }],
    ['warmStart', { warmStart: 'off', vmFactory: { newVm: async () => ({}) } }],
  ])('%s must fit', (option, options) => {
    const error = thrown(() => parseSandboxOptions(options));
    expect(error).toMatchObject({ code: 'ERR_INVALID_CONFIG' });
    expect(error.message).toContain(option);
  });

  test.each(['memory', 'nics'])('the machine option %s is refused by name', (option) => {
    const error = thrown(() => parseMachineConfig({ ...machine, [option]: {} }));
    expect(error.code).toBe('ERR_UNSUPPORTED');
    expect(error.message).toContain(`"${option}"`);
  });

  test.each([
    [{ vsock: { socketPath: '/s' } }, 'vsock.socketPath'],
    [{ console: { path: '/c' } }, 'console'],
  ])('the machine option %j is refused by name', (options, option) => {
    const error = thrown(() => parseMachineConfig({ ...machine, ...options }));
    expect(error.code).toBe('ERR_UNSUPPORTED');
    expect(error.context.option).toBe(option);
  });
});

describe('resource limits', () => {
  test('go to the kernel by number, Infinity as no limit', () => {
    const { rlimits } = parseExecOptions({
      rlimits: { nofile: 64, cpu: { soft: 1, hard: Number.POSITIVE_INFINITY } },
    });
    expect(rlimits).toEqual([
      { resource: 0, soft: 1n, hard: 2n ** 64n - 1n },
      { resource: 7, soft: 64n, hard: 64n },
    ]);
    expect(parseExecOptions({}).rlimits).toEqual([]);
  });

  test.each([
    [{ files: 1 }, 'files'],
    [{ nofile: -1 }, 'nofile'],
    [{ nofile: 1.5 }, 'nofile'],
    [{ nofile: '64' }, 'nofile'],
    [{ nofile: { soft: 2, hard: 1 } }, 'nofile'],
    [{ nofile: { soft: 2 } }, 'nofile'],
  ])('%j is refused', (rlimits, name) => {
    const error = thrown(() => parseExecOptions({ rlimits }));
    expect(error.code).toBe('ERR_INVALID_CONFIG');
    expect(error.message).toContain(name);
  });
});

describe('machine configurations that are wrong', () => {
  refuses(parseMachineConfig, [
    [{}, 'kernel must be an object', 'vcpus must be a number', 'memoryMib must be a number'],
    [{ ...machine, kernel: {} }, 'kernel.path must be a string, not undefined'],
    [{ ...machine, kernel: { path: 'a\0b' } }, 'kernel.path', 'NUL'],
    [{ ...machine, vcpus: 0 }, 'vcpus is 0', 'at least 1'],
    [{ ...machine, vcpus: 2, maxVcpus: 1 }, 'maxVcpus', 'not be less than vcpus'],
    [{ ...machine, hotplugSlots: 9 }, 'hotplugSlots is 9', 'at most 8'],
    [{ ...machine, hotplugSlots: {} }, 'hotplugSlots', 'number'],
    [{ ...machine, vcpus: 1000 }, 'vcpus is 1000', 'at most 32'],
    [{ ...machine, memoryMib: -1 }, 'memoryMib is -1', 'at least 32'],
    [{ ...machine, maxMemoryMib: 60 }, 'maxMemoryMib', 'not be less than memoryMib'],
    [{ ...machine, maxMemoryMib: 66 }, 'maxMemoryMib', 'a multiple of 4'],
    [{ ...machine, maxMemoryMib: 2 ** 40 }, 'maxMemoryMib', 'this host has no more'],
    [{ ...machine, drives: [{ path: '/d', id: 'i'.repeat(21) }] }, 'drives[0].id', '20 bytes'],
    [{ ...machine, drives: [{}] }, 'drives[0].path'],
    [{ ...machine, drives: Array(27).fill({ path: '/d' }) }, 'drives', 'at most 26 entries'],
    [{ ...machine, sharedDirs: [{ path: '/d' }] }, 'sharedDirs[0].tag'],
    [{ ...machine, sharedDirs: [{ tag: 'x'.repeat(37), path: '/d' }] }, '36 bytes'],
    [{ ...machine, sharedDirs: Array(2).fill({ tag: 't', path: '/d' }) }, 'its own tag'],
    [{ ...machine, sharedDirs: [{ tag: 't', path: '/d', owner: 'me' }] }, 'sharedDirs[0].owner'],
    [{ ...machine, vsock: { cid: 2 } }, 'vsock.cid is 2', 'at least 3'],
    [{ ...machine, vsock: { cid: 2 ** 32 - 1 } }, 'vsock.cid', 'at most 4294967294'],
    [{ ...machine, consoleBytes: 1 }, 'consoleBytes is 1', 'at least 4096'],
    [{ ...machine, rng: 'yes' }, 'rng must be a boolean'],
    [{ ...machine, cpus: 1 }, 'unknown option "cpus"'],
  ]);
});

test('the file of a memory is as long as its pluggable region makes it', () => {
  expect(memoryFileMib({ memoryMib: 128 })).toBe(128);
  expect(memoryFileMib({ memoryMib: 100, maxMemoryMib: 104 })).toBe(228);
  expect(memoryFileMib({ memoryMib: 128, maxMemoryMib: 384 })).toBe(384);
  expect(memoryFileMib({ memoryMib: 63 * 1024, maxMemoryMib: 63 * 1024 + 4 })).toBe(65 * 1024);
});

describe('sizes of memory that are wrong', () => {
  refuses(
    (input) =>
      parseResizeMemory((input as { mib: unknown }).mib, (input as { more: unknown }).more),
    [
      [{ mib: -1, more: {} }, 'mib is -1', 'at least 0'],
      [{ mib: '64', more: {} }, 'mib must be a number'],
      [{ mib: 64, more: { patienceMs: -1 } }, 'patienceMs is -1'],
      [{ mib: 64, more: { timeoutMs: 1 } }, 'unknown option "timeoutMs"'],
    ],
  );
});

describe('exec options that are wrong', () => {
  refuses(parseExecOptions, [
    [{ cwd: 'tmp' }, 'cwd is "tmp"', 'absolute'],
    [{ cwd: `/${'x'.repeat(4096)}` }, 'cwd', '4095'],
    [{ timeoutMs: 0 }, 'timeoutMs is 0', 'at least 1'],
    [{ timeoutMs: 1.5 }, 'timeoutMs must be an integer'],
    [{ encoding: 'latin1' }, 'encoding is "latin1"', '"utf8" or "buffer"'],
    [{ maxBuffer: -1 }, 'maxBuffer is -1', 'at least 0'],
    [{ stdin: 5 }, 'stdin is a number', 'async iterable'],
    [{ timeout: 5 }, 'unknown option "timeout"'],
    [{ tty: 1 }, 'tty is 1'],
    [{ tty: { rows: 0, cols: 80 } }, 'tty.rows is 0', 'at least 1'],
    [{ tty: { rows: 24, cols: 65_536 } }, 'tty.cols is 65536', 'at most 65535'],
    [{ tty: { rows: 24 } }, 'tty.cols must be a number'],
  ]);

  test('a terminal has a size, and a keyboard unless none is wanted', () => {
    expect(parseExecOptions({ tty: true })).toMatchObject({
      tty: { rows: 24, cols: 80 },
      stdin: 'pipe',
    });
    expect(parseExecOptions({ tty: { rows: 1, cols: 2 }, stdin: 'null' })).toMatchObject({
      tty: { rows: 1, cols: 2 },
      stdin: 'null',
    });
    expect(parseExecOptions({ tty: false })).not.toHaveProperty('tty');
    expect(parseExecOptions({})).toMatchObject({ stdin: 'null' });
  });

  test.each(['text', new Uint8Array(1), (async function* () {})()])('stdin may be %o', (source) => {
    expect(parseExecOptions({ stdin: source }).stdin).toEqual({ source });
  });
});

describe('commands', () => {
  test('become argv', () => {
    expect(parseCommand('ls', ['-l', ''])).toEqual(['ls', '-l', '']);
  });

  test.each([
    ['', [], 'file is ""'],
    ['a\0', [], 'NUL'],
    ['ls', ['a\0'], 'args[0]'],
    ['ls', [1], 'args[0] must be a string, not 1'],
    ['ls', 'x', 'args must be an array'],
    [undefined, [], 'file must be a string'],
  ])('%j %j is refused', (file, args, says) => {
    expect(thrown(() => parseCommand(file, args)).message).toContain(says);
  });

  test('above the limit of execve are refused with size and limit', () => {
    const error = thrown(() => checkCommandBytes(['x'.repeat(2 ** 21)]));
    expect(error).toMatchObject({ code: 'ERR_INVALID_CONFIG', context: { limit: 2 ** 21 } });
  });
});

test.each([-1, 2 ** 32 - 1, 1.5, '1'])('the vsock port %j is refused', (port) => {
  expect(thrown(() => parsePort(port)).message).toContain('port');
});

test('every option has a description for tools that read the schema', async () => {
  const { sandboxOptionsSchema } = await import('../../lib/config/sandbox.js');
  const { machineConfigSchema } = await import('../../lib/config/machine.js');
  for (const schema of [sandboxOptionsSchema, machineConfigSchema]) {
    const json = z.toJSONSchema(schema, { unrepresentable: 'any', io: 'input' });
    const properties = Object.entries(json.properties ?? {});
    expect(properties.length).toBeGreaterThan(5);
    for (const [name, property] of properties) {
      expect(property, name).toHaveProperty('description');
    }
  }
});
