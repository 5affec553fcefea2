import { getEventListeners } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { waitFor } from '../../lib/machine/wait.js';
import { guestCommandLine } from '../../lib/native/command-line.js';
import { packageRoot } from '../../lib/native/package-root.js';
import { sdkVersion } from '../../lib/native/version.js';
import { Handoff } from '../../lib/sandbox/handoff.js';
import { ByteCollector } from '../../lib/sandbox/output.js';
import { errnoName, signalName, signalNumber } from '../../lib/sandbox/signals.js';
import { stopReason } from '../../lib/sandbox/stop-result.js';
import { generateName, hostnameFor } from '../../lib/state/names.js';
import { rejection } from '../helpers/rejection.js';

test('sdkVersion is the version of the package', () => {
  const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8'));
  expect(sdkVersion).toBe(version);
});

test('the command line is that of guest/kernel/cmdline for all hosts', () => {
  const lines = readFileSync(join(packageRoot(), 'guest/kernel/cmdline'), 'utf8').split('\n');
  const sections: Record<string, string[]> = {};
  let words: string[] = [];
  for (const line of lines) {
    const section = /^\[(.+)\]$/.exec(line)?.[1];
    if (section !== undefined) sections[section] = words = [];
    else if (line !== '' && !line.startsWith('#')) words.push(line);
  }
  expect(guestCommandLine).toEqual(sections.all);
});

describe('names', () => {
  test('that are generated are right and differ', () => {
    const names = new Set(Array.from({ length: 100 }, generateName));
    expect(names.size).toBe(100);
    for (const name of names) expect(name).toMatch(/^sandbox-[0-9a-f]{12}$/);
  });

  test('become host names of at most 64 bytes that differ', () => {
    expect(hostnameFor('short')).toBe('short');
    expect(hostnameFor('a'.repeat(64))).toBe('a'.repeat(64));
    const long = hostnameFor('a'.repeat(128));
    expect(long).toMatch(/^a{55}-[0-9a-f]{8}$/);
    expect(hostnameFor(`${'a'.repeat(127)}b`)).not.toBe(long);
  });
});

describe('signals', () => {
  test('have names and numbers', () => {
    expect(signalName(9)).toBe('SIGKILL');
    expect(signalName(6)).toBe('SIGABRT');
    expect(signalName(34)).toBe('SIGRTMIN+0');
    expect(signalName(33)).toBe('SIG33');
    expect(signalNumber('SIGUSR2')).toBe(12);
    expect(signalNumber(64)).toBe(64);
  });

  test('errno numbers have names', () => {
    expect(errnoName(2)).toBe('ENOENT');
    expect(errnoName(8)).toBe('ENOEXEC');
    expect(errnoName(0)).toBeUndefined();
    expect(errnoName(12_345)).toBeUndefined();
  });
});

test('the reason of an end tells what was asked for from what was not', () => {
  const exit = (reason: 'poweroff' | 'reset' | 'panic' | 'killed' | 'fault') => ({
    reason,
    message: '',
    context: {},
  });
  expect(stopReason(exit('poweroff'), 'stop')).toBe('requested');
  expect(stopReason(exit('poweroff'), undefined)).toBe('guest_poweroff');
  expect(stopReason(exit('reset'), undefined)).toBe('guest_reset');
  expect(stopReason(exit('killed'), 'stop')).toBe('killed');
  expect(stopReason(exit('killed'), 'agent_lost')).toBe('agent_lost');
  expect(stopReason(exit('panic'), 'stop')).toBe('guest_panic');
  expect(stopReason(exit('fault'), undefined)).toBe('machine_fault');
});

describe('a collector', () => {
  test('keeps pieces up to its limit, to the byte', () => {
    const collector = new ByteCollector(10);
    collector.append(Buffer.from('12345'));
    expect(collector.truncated).toBe(false);
    collector.append(Buffer.from('67890'));
    expect(collector.truncated).toBe(false);
    collector.append(Buffer.from('x'));
    expect(collector.truncated).toBe(true);
    expect(collector.take().toString()).toBe('1234567890');
    expect(collector.take()).toHaveLength(0);
  });

  test('does not hold what its pieces were cut from', () => {
    const before = process.memoryUsage().arrayBuffers;
    const collector = new ByteCollector(2 ** 20);
    for (let count = 0; count < 200; count += 1) {
      collector.append(Buffer.allocUnsafeSlow(2 ** 20).subarray(0, 1));
    }
    globalThis.gc?.();
    expect(collector.take()).toHaveLength(200);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(2 ** 20 * 250);
  });
});

describe('a handoff', () => {
  test('makes the giver wait for the taker', async () => {
    const handoff = new Handoff<number>();
    let taken = false;
    const put = handoff.put(1).then(() => {
      taken = true;
    });
    await sleep(10);
    expect(taken).toBe(false);
    expect(await handoff.take()).toBe(1);
    await put;
  });

  test('that is closed hands out what was put, then nothing', async () => {
    const handoff = new Handoff<number>();
    const put = handoff.put(1);
    handoff.close();
    await put;
    await handoff.put(2);
    expect(await handoff.take()).toBe(1);
    expect(await handoff.take()).toBeUndefined();
  });

  test('that is closed wakes the taker', async () => {
    const handoff = new Handoff<number>();
    const take = handoff.take();
    handoff.close();
    expect(await take).toBeUndefined();
  });
});

describe('waitFor', () => {
  test('gives up after its time with undefined', async () => {
    expect(await waitFor(new Promise(() => {}), { what: 'x', timeoutMs: 5 })).toBeUndefined();
  });

  test('gives the value, and leaves no listener on the signal', async () => {
    const { signal } = new AbortController();
    expect(await waitFor(Promise.resolve(1), { what: 'x', timeoutMs: 1000, signal })).toBe(1);
    expect(getEventListeners(signal, 'abort')).toHaveLength(0);
  });

  test('rejects on abort', async () => {
    const controller = new AbortController();
    const wait = waitFor(new Promise(() => {}), { what: 'the end', signal: controller.signal });
    controller.abort();
    expect(await rejection(wait)).toMatchObject({
      code: 'ERR_ABORTED',
      message: 'the end was aborted',
    });
  });
});
