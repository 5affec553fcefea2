import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ExecError } from '../../lib/errors.js';
import { type ExecEvent, type ExecResult, Sandbox } from '../../lib/index.js';
import { AgentClient } from '../../lib/rpc/agent-client.js';
import {
  BOOT_TIMEOUT_MS,
  compileForGuest,
  describeGuest,
  small,
  useHome,
} from '../helpers/guest.js';
import { rejection, thrown } from '../helpers/rejection.js';

const home = useHome();
const NAME = 'exec-test';
let sandbox: Sandbox;

const sha256 = (data: Uint8Array | string): string =>
  createHash('sha256').update(data).digest('hex');

describeGuest('a sandbox', () => {
  beforeAll(async () => {
    sandbox = await Sandbox.create(
      small({
        name: NAME,
        ephemeral: true,
        env: { FROM_SANDBOX: 'yes', BOTH: 'sandbox' },
        warmStart: 'off',
      }),
    );
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await sandbox?.close();
  });

  test('tells its name, id, status and how it booted', () => {
    expect(sandbox.name).toBe(NAME);
    expect(sandbox.id).toMatch(/^[0-9a-f-]{36}$/);
    expect(sandbox.status).toBe('running');
    expect(sandbox.ownsLifecycle).toBe(true);
    const report = sandbox.bootReport();
    expect(report.start).toBe('cold');
    expect(report.stages.map(({ stage }) => stage)).toEqual([
      'validate',
      'assets',
      'disk',
      'machine',
      'kernel',
      'root',
    ]);
    const sum = report.stages.reduce((total, { durationMs }) => total + durationMs, 0);
    expect(Math.abs(sum - report.totalMs)).toBeLessThan(50);
    expect(report.machineSetupMs).toBeGreaterThan(0);
    expect(report.guest.kernelRelease).toMatch(/^6\./);
    const { agentStartedMs, agentDialledMs } = report.guest;
    expect(agentStartedMs).toBeGreaterThan(0);
    expect(agentDialledMs).toBeGreaterThanOrEqual(agentStartedMs ?? Number.POSITIVE_INFINITY);
    expect(existsSync(join(home, 'sandboxes', NAME, 'upper.ext4'))).toBe(true);
  });

  test('has its name taken', async () => {
    const error = await rejection(Sandbox.create(small({ name: NAME })));
    expect(error.code).toBe('ERR_SANDBOX_EXISTS');
  });

  test('runs a program in the kernel of the guest', async () => {
    const result = await sandbox.exec('uname', ['-srn']);
    expect(result).toMatchObject({ exitCode: 0, signal: null, success: true, stderr: '' });
    expect(result.stdout).toBe(`Linux ${NAME} ${sandbox.bootReport().guest.kernelRelease}\n`);
    expect(result.durationMs).toBeGreaterThan(0);
  });

  test('passes arguments as they are', async () => {
    const args = ['a b', '$HOME', '"', "'", '', '*', 'ü\n'];
    const { stdout } = await sandbox.exec('printf', ['[%s]', ...args]);
    expect(stdout).toBe(args.map((arg) => `[${arg}]`).join(''));
  });

  test('separates stdout from stderr', async () => {
    const result = await sandbox.shell('echo out; echo err >&2');
    expect(result).toMatchObject({ stdout: 'out\n', stderr: 'err\n' });
  });

  test('reports every exit code, and none as an error', async () => {
    const codes = [0, 1, 42, 127, 255];
    for (const code of codes) {
      const result = await sandbox.exec('/bin/sh', ['-c', `exit ${code}`]);
      expect(result).toMatchObject({ exitCode: code, signal: null, success: code === 0 });
    }
  });

  test('reports the signal that ended a program', async () => {
    const result = await sandbox.shell('kill -SEGV $$');
    expect(result).toMatchObject({ exitCode: null, signal: 'SIGSEGV', success: false });
  });

  test('has environment, directory, user and host name', async () => {
    const script = 'echo $FROM_SANDBOX $BOTH $FROM_EXEC; pwd; id -u; id -g; hostname; echo $HOME';
    const options = { env: { FROM_EXEC: 'here', BOTH: 'exec' }, cwd: '/etc' };
    expect((await sandbox.shell(script, options)).stdout).toBe(
      `yes exec here\n/etc\n0\n0\n${NAME}\n/root\n`,
    );
    const { stdout } = await sandbox.shell('id -u; id -g; echo $HOME; pwd', { user: '1234:4321' });
    expect(stdout.split('\n').slice(0, 2)).toEqual(['1234', '4321']);
  });

  test('has a writable root on its own disk', async () => {
    const script = 'echo kept > /file && sync && cat /file && df -m / | tail -1';
    const { stdout } = await sandbox.shell(script);
    expect(stdout).toMatch(/^kept\nroot\s+40\d\d /);
    expect((await sandbox.shell('cat /file; rm /file')).stdout).toBe('kept\n');
  });

  test.each([
    ['text', 'grüße\n'],
    ['bytes', Buffer.from('grüße\n')],
    [
      'an async iterable',
      (async function* () {
        yield Buffer.from('grü');
        yield Buffer.from('ße\n');
      })(),
    ],
  ])('feeds %s to stdin', async (_, stdin) => {
    expect((await sandbox.exec('cat', [], { stdin })).stdout).toBe('grüße\n');
  });

  test('gives /dev/null as stdin by default', async () => {
    expect((await sandbox.shell('cat; echo done')).stdout).toBe('done\n');
  });

  test('talks through a pipe in both directions', async () => {
    const execution = sandbox.shell('while read line; do echo "got $line"; done; echo end', {
      stdin: 'pipe',
    });
    const { stdin, stdout } = execution;
    stdout.setEncoding('utf8');
    stdin?.write('one\n');
    expect(await once(stdout, 'data')).toEqual(['got one\n']);
    stdin?.write('two\n');
    expect(await once(stdout, 'data')).toEqual(['got two\n']);
    let rest = '';
    stdout.on('data', (chunk) => {
      rest += chunk;
    });
    stdin?.end();
    expect((await execution).exitCode).toBe(0);
    await expect.poll(() => rest).toBe('end\n');
  });

  test('does not mind a program that reads none of its input', async () => {
    const result = await sandbox.exec('true', [], { stdin: Buffer.alloc(1_000_000) });
    expect(result.exitCode).toBe(0);
  });

  test('keeps 64 KiB intact both ways, whatever the bytes', async () => {
    const data = randomBytes(64 * 1024);
    const result = await sandbox.exec('cat', [], { stdin: data, encoding: 'buffer' });
    expect(result.stdout).toHaveLength(data.length);
    expect(sha256(result.stdout)).toBe(sha256(data));
  });

  test('keeps 8 MiB of output intact', async () => {
    // Eight bytes a line, made at the native speed of the guest's user mode.
    const lines = 2 ** 20;
    const result = await sandbox.exec('seq', ['-w', '1', String(lines)]);
    expect(result).toMatchObject({ exitCode: 0, truncated: false });
    expect(result.stdout).toHaveLength(8 * 2 ** 20);
    const hash = createHash('sha256');
    for (let line = 1; line <= lines; line += 1) hash.update(`${String(line).padStart(7, '0')}\n`);
    expect(sha256(result.stdout)).toBe(hash.digest('hex'));
  });

  test('cuts output at maxBuffer', async () => {
    const result = await sandbox.exec('head', ['-c', '300000', '/dev/zero'], { maxBuffer: 1000 });
    expect(result).toMatchObject({ truncated: true, exitCode: 0 });
    expect(result.stdout).toHaveLength(1000);
  });

  test('stops a program whose output is not read', async () => {
    const execution = sandbox.exec('seq', ['1', '1000000000']);
    const reader = execution.stdout[Symbol.asyncIterator]();
    await reader.next();
    // State and CPU time of a program that waits for its pipe do not change.
    const stat = `/proc/${await execution.pid}/stat`;
    const look = async (): Promise<string> =>
      (await sandbox.exec('cut', ['-d', ' ', '-f', '3,14,15', stat])).stdout;
    let last = await look();
    await expect
      .poll(
        async () => {
          const now = await look();
          const same = now === last && now.startsWith('S');
          last = now;
          return same;
        },
        { timeout: 60_000 },
      )
      .toBe(true);
    await execution[Symbol.asyncDispose]();
  });

  test('yields events in order', async () => {
    const events: ExecEvent[] = [];
    for await (const event of sandbox.shell('echo a; sleep 0.2; echo b >&2; exit 3')) {
      events.push(event);
    }
    expect(events.map(({ type }) => type)).toEqual(['started', 'stdout', 'stderr', 'exited']);
    expect(events[0]).toMatchObject({ pid: expect.any(Number) });
    expect(events.at(-1)).toEqual({ type: 'exited', exitCode: 3, signal: null });
  });

  test('runs commands side by side, each with its own result', async () => {
    const runs = Array.from({ length: 5 }, (_, index) =>
      sandbox.shell(`read line; echo "${index} $line"; exit ${index}`, { stdin: `in ${index}\n` }),
    );
    const results = await Promise.all(runs);
    results.forEach((result, index) => {
      expect(result).toMatchObject({ exitCode: index, stdout: `${index} in ${index}\n` });
    });
  });

  test('ends when the program does, though a child holds its output', async () => {
    const startedAt = performance.now();
    const result = await sandbox.shell('echo before; sleep 300 & echo after');
    expect(result).toMatchObject({ exitCode: 0, stdout: 'before\nafter\n' });
    expect(performance.now() - startedAt).toBeLessThan(60_000);
    await sandbox.exec('killall', ['sleep']);
  });

  test('kills the whole group at a time limit, and has what came until then', async () => {
    const script = 'echo so far; sleep 301 & sleep 301; echo never';
    const error = await rejection<ExecError<ExecResult>>(
      sandbox.shell(script, { timeoutMs: 10_000 }),
    );
    expect(error).toMatchObject({
      code: 'ERR_EXEC_TIMEOUT',
      result: { stdout: 'so far\n', timedOut: true, signal: 'SIGKILL' },
    });
    await expect
      .poll(async () => (await sandbox.exec('pidof', ['sleep'])).stdout, { timeout: 30_000 })
      .toBe('');
  });

  test('kills on abort', async () => {
    const controller = new AbortController();
    const execution = sandbox.exec('sleep', ['302'], { signal: controller.signal });
    await execution.pid;
    controller.abort();
    const error = await rejection<ExecError>(execution);
    expect(error.code).toBe('ERR_EXEC_ABORTED');
    expect(error.cause).toMatchObject({ name: 'AbortError' });
  });

  test('sends signals that programs can handle', async () => {
    const execution = sandbox.shell(
      'trap "echo caught; exit 9" USR1; echo ready; while :; do sleep 0.1; done',
      { timeoutMs: 60_000 },
    );
    const seen: string[] = [];
    for await (const chunk of execution.stdout) {
      seen.push(String(chunk));
      if (seen.join('') === 'ready\n') await execution.kill('SIGUSR1');
    }
    expect(seen.join('')).toBe('ready\ncaught\n');
    expect((await execution).exitCode).toBe(9);
    await execution.kill();
  });

  test.each([
    ['a program that is absent', 'no-such-program', [], {}, 'not_found', 'ENOENT'],
    ['a path that is absent', '/no/such/program', [], {}, 'not_found', 'ENOENT'],
    ['a file without the permission', '/etc/passwd', [], {}, 'permission_denied', 'EACCES'],
    ['a directory', '/etc', [], {}, 'permission_denied', 'EACCES'],
    ['a working directory that is absent', 'true', [], { cwd: '/no/such' }, 'bad_cwd', 'ENOENT'],
    [
      'a working directory that is a file',
      'true',
      [],
      { cwd: '/etc/passwd' },
      'bad_cwd',
      'ENOTDIR',
    ],
    [
      'a variable of 1 MiB',
      'true',
      [],
      { env: { A: 'x'.repeat(2 ** 20) } },
      'resource_limit',
      'E2BIG',
    ],
    ['a user that is absent', 'true', [], { user: 'nobody-like-that' }, 'bad_user', undefined],
  ] as const)('says why %s does not start', async (_, file, args, options, kind, errno) => {
    const error = await rejection<ExecError>(sandbox.exec(file, args, options));
    expect(error).toMatchObject({ code: 'ERR_EXEC_FAILED', kind });
    if (errno !== undefined) expect(error.errno).toBe(errno);
    expect(error.message).toContain(JSON.stringify(file));
  });

  test('says why a file of no known format does not start', async () => {
    await sandbox.shell('printf "\\000\\001\\002" > /junk; chmod +x /junk');
    const error = await rejection<ExecError>(sandbox.exec('/junk'));
    expect(error).toMatchObject({ kind: 'not_executable', errno: 'ENOEXEC' });
  });

  test('takes ten thousand arguments, and a megabyte of environment', async () => {
    const args = Array.from({ length: 10_000 }, (_, index) => String(index));
    const { stdout } = await sandbox.exec('sh', ['-c', 'shift 9998; echo $# $1', 'sh', ...args]);
    expect(stdout).toBe('2 9998\n');
    const env = Object.fromEntries(args.slice(0, 64).map((n) => [`V${n}`, 'x'.repeat(16 * 1024)]));
    expect(await sandbox.shell('printf %s "$V0$V63" | wc -c', { env })).toMatchObject({
      stdout: '32768\n',
    });
  });

  test('refuses options at once', () => {
    expect(thrown(() => sandbox.exec('')).code).toBe('ERR_INVALID_CONFIG');
  });

  test('does not run after orphans: they are reaped', async () => {
    await sandbox.shell('(sleep 0.1 &) ; (sleep 0.1 &)');
    await sleep(1000);
    const { stdout } = await sandbox.shell('cat /proc/[0-9]*/stat | grep " Z " | wc -l');
    expect(stdout.trim()).toBe('0');
  });

  test('keeps the vector registers of its processes apart', async () => {
    const program = compileForGuest('ymm', ['-mavx']);
    await sandbox.shell('cat > /ymm && chmod +x /ymm', { stdin: program });
    const runs = [11, 22, 33].map((seed) => sandbox.exec('/ymm', ['6', String(seed)]));
    const results = await Promise.all(runs);
    for (const result of results) {
      expect(result).toMatchObject({ exitCode: 0, stderr: '' });
      expect(result.stdout).toMatch(/^([2-9]|\d{2,}) rounds\n$|^no AVX\n$/);
    }
  });

  test('connects to a port of the guest', async () => {
    const control = await sandbox.connect(1024);
    const agent = new AgentClient(control);
    const { kernelRelease } = await agent.getInfo();
    expect(kernelRelease).toBe(sandbox.bootReport().guest.kernelRelease);
    agent.close();
    const error = await rejection(sandbox.connect(4999));
    expect(error.code).toBe('ERR_VSOCK_REFUSED');
  });

  test('carries raw streams both ways', async () => {
    const program = compileForGuest('vsock');
    await sandbox.shell('cat > /vsock && chmod +x /vsock', { stdin: program });

    const server = sandbox.exec('/vsock', ['echo', '7000']);
    await once(server.stdout, 'data');
    const stream = await sandbox.connect(7000);
    const data = randomBytes(300_000);
    stream.end(data);
    const echoed: Buffer[] = [];
    for await (const chunk of stream) echoed.push(chunk as Buffer);
    expect(sha256(Buffer.concat(echoed))).toBe(sha256(data));
    expect((await server).exitCode).toBe(0);

    const listener = await sandbox.listen(7001, (guest) => {
      guest.once('data', (chunk) => guest.end(`host heard ${chunk}`));
    });
    const dial = await sandbox.exec('/vsock', ['dial', '7001'], { stdin: 'hello' });
    expect(dial).toMatchObject({ exitCode: 0, stdout: 'host heard hello' });
    await listener.close();
    const refused = await sandbox.exec('/vsock', ['dial', '7001'], { stdin: 'hello' });
    expect(refused.exitCode).toBe(1);
  });

  test('counts what it uses', async () => {
    const metrics = await sandbox.metrics();
    expect(metrics.cpu).toMatchObject({ cpus: 1, timeMs: expect.any(Number) });
    expect(metrics.memory.limitBytes).toBe(128 * 2 ** 20);
    expect(metrics.memory.residentBytes).toBeGreaterThan(8 * 2 ** 20);
    expect(metrics.disk.readBytes).toBeGreaterThan(0);
    expect(metrics.vsock.receivedBytes).toBeGreaterThan(500_000);
    expect(metrics.vsock.sentBytes).toBeGreaterThan(8 * 2 ** 20);
    expect(metrics.uptimeMs).toBeGreaterThan(0);
    expect(metrics.processes.running).toBe(0);
    expect(metrics.cpu.deviceMs).toBeGreaterThan(0);
    expect(metrics.cpu.deviceMs).toBeLessThan(metrics.cpu.timeMs);
    expect(metrics.cpu.haltedMs).toBeGreaterThan(0);
    expect(metrics.cpu.haltedMs).toBeLessThan(metrics.uptimeMs);
    const counters = await sandbox.metrics({ guest: false, resident: false });
    expect(counters.memory).toMatchObject({ residentBytes: null, guest: null });
    const guest = metrics.memory.guest ?? { totalBytes: 0, freeBytes: 0 };
    expect(guest.totalBytes).toBeGreaterThan(64 * 2 ** 20);
    expect(guest.totalBytes).toBeLessThan(metrics.memory.limitBytes);
    expect(guest.freeBytes).toBeLessThan(guest.totalBytes);
  });

  test('leaves to this process for no device while data moves', async () => {
    const command = 'dd if=/dev/zero of=/root/moved bs=64k count=16 conv=fsync; cat /root/moved';
    // The first time loads the programs.
    await sandbox.shell(command);
    const before = await sandbox.metrics();
    const { stdout } = await sandbox.shell(command);
    const after = await sandbox.metrics();
    expect(stdout).toHaveLength(2 ** 20);
    expect(after.disk.writtenBytes - before.disk.writtenBytes).toBeGreaterThanOrEqual(2 ** 20);
    expect(after.vsock.sentBytes - before.vsock.sentBytes).toBeGreaterThan(2 ** 20);
    // Kicks and acknowledgements end in KVM, and registers are read from memory.
    expect(before.cpu.deviceExits).toBeGreaterThan(0);
    expect(after.cpu.deviceExits).toBe(before.cpu.deviceExits);
  });

  test('counts in a stream what came since the sample before', async () => {
    const busy = sandbox.shell('while :; do :; done');
    await busy.pid;
    const percents: number[] = [];
    for await (const { cpu, processes } of sandbox.metricsStream({ intervalMs: 300 })) {
      expect(processes.running).toBe(1);
      percents.push(cpu.percent);
      if (percents.length === 3) break;
    }
    expect(Math.max(...percents.slice(1))).toBeGreaterThan(30);
    await busy.kill('SIGKILL');
    await busy;
    const controller = new AbortController();
    const stream = sandbox.metricsStream({ intervalMs: 60_000, signal: controller.signal });
    await stream.next();
    const next = stream.next();
    controller.abort(new Error('enough'));
    expect((await rejection(next)).code).toBe('ERR_ABORTED');
    expect(thrown(() => sandbox.metricsStream({ intervalMs: 0 })).code).toBe('ERR_INVALID_CONFIG');
  });

  test('stops gracefully, and leaves nothing', async () => {
    const last = sandbox.shell(
      'trap "echo asked; exit 0" TERM; echo on; while :; do sleep 0.1; done',
    );
    await last.pid;
    await once(last.stdout, 'data');
    const stopping = sandbox.stop({ timeoutMs: 60_000 });
    expect(sandbox.status).toBe('draining');
    const refused = await rejection(sandbox.exec('true'));
    expect(refused.code).toBe('ERR_SANDBOX_DRAINING');
    expect(await stopping).toMatchObject({
      name: NAME,
      status: 'stopped',
      reason: 'requested',
      observedAt: expect.any(Date),
    });
    expect(sandbox.status).toBe('stopped');
    expect(existsSync(join(home, 'sandboxes', NAME))).toBe(false);
    expect(await sandbox.waitUntilStopped()).toMatchObject({ reason: 'requested' });
    expect(await sandbox.kill()).toMatchObject({ reason: 'requested' });
    await sandbox.close();
    expect((await rejection(sandbox.metrics())).code).toBe('ERR_SANDBOX_NOT_RUNNING');
    expect((await rejection(sandbox.connect(1024))).code).toBe('ERR_SANDBOX_NOT_RUNNING');
  });
});
