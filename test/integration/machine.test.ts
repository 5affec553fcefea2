import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import type { MachineError } from '../../lib/errors.js';
import { Machine, type MachineConfig, probeHost } from '../../lib/machine/index.js';
import { collectGarbage } from '../helpers/garbage.js';
import { asset, describeGuest } from '../helpers/guest.js';
import { rejection, thrown } from '../helpers/rejection.js';
import { countable, resources } from '../helpers/resources.js';
import { programs, writeKernel } from '../helpers/tiny-kernel.js';

let directory = '';
const open: Machine[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'embervm-machine-'));
});

afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

afterEach(async () => {
  for (const machine of open.splice(0)) await machine.close();
});

let kernels = 0;

async function create(code: number[], config: Partial<MachineConfig> = {}): Promise<Machine> {
  kernels += 1;
  const path = await writeKernel(join(directory, `kernel-${kernels}`), code);
  const machine = await Machine.create({ kernel: { path }, vcpus: 1, memoryMib: 32, ...config });
  open.push(machine);
  return machine;
}

async function running(code: number[] = programs.idle('up')): Promise<Machine> {
  const machine = await create(code);
  await machine.start();
  return machine;
}

describeGuest('a machine', () => {
  test('goes from created to running to paused and back, and prints', async () => {
    const machine = await create(programs.idle('hello from the guest'));
    const events: string[] = [];
    machine.on('ready', () => events.push('ready'));
    machine.on('exit', (exit) => events.push(`exit ${exit.reason}`));
    expect(machine.state).toBe('created');
    await machine.start();
    expect(machine.state).toBe('running');
    await expect.poll(() => machine.consoleTail()).toContain('hello from the guest');
    expect(machine.consoleTail(5)).toBe('guest');
    await machine.pause();
    expect(machine.state).toBe('paused');
    await machine.pause();
    await machine.resume();
    await machine.resume();
    expect(machine.state).toBe('running');
    expect(await machine.kill()).toMatchObject({ reason: 'killed' });
    expect(machine.state).toBe('stopped');
    expect(machine.exit?.reason).toBe('killed');
    await machine.close();
    expect(machine.consoleTail()).toContain('hello');
    expect(events).toEqual(['ready', 'exit killed']);
  });

  test('counts what it does', async () => {
    const machine = await create(programs.idle('some text'));
    expect(machine.stats().setupNs).toBe(-1);
    await machine.start();
    await expect.poll(() => machine.stats().vcpus[0]?.exits).toBeGreaterThanOrEqual(9);
    const stats = machine.stats();
    expect(stats.setupNs).toBeGreaterThan(0);
    expect(await machine.residentBytes()).toBeGreaterThan(0);
    expect(stats.console.bytes).toBeGreaterThanOrEqual(9);
  });

  test('whose CPU never stops can be paused and killed', async () => {
    const machine = await running(programs.spin());
    await sleep(20);
    await machine.pause();
    const before = machine.stats().vcpus[0]?.cpuTimeNs ?? 0;
    await sleep(50);
    expect((machine.stats().vcpus[0]?.cpuTimeNs ?? 0) - before).toBeLessThan(20_000_000);
    await machine.resume();
    expect(await machine.kill()).toMatchObject({ reason: 'killed' });
  });

  test.each([
    ['powerOff', 'poweroff', 'stopped'],
    ['reset', 'reset', 'stopped'],
    ['panic', 'panic', 'crashed'],
  ] as const)('that does %s ends with %s', async (program, reason, state) => {
    const machine = await create(programs[program]('last words'));
    const crashes: MachineError[] = [];
    machine.on('crash', (error) => crashes.push(error));
    await machine.start();
    expect(await machine.waitUntilStopped()).toMatchObject({ reason });
    expect(machine.state).toBe(state);
    expect(machine.consoleTail()).toContain('last words');
    expect(crashes.map((error) => error.code)).toEqual(
      reason === 'panic' ? ['ERR_GUEST_PANIC'] : [],
    );
    expect(await machine.kill()).toMatchObject({ reason });
    expect(await machine.stop()).toMatchObject({ reason });
  });

  test('that ends by itself while it is stopped was not killed', async () => {
    const machine = await running();
    machine.onPowerOff(async () => {
      await machine.kill();
    });
    expect(await machine.stop({ timeoutMs: 5000 })).toMatchObject({ reason: 'killed' });
  });

  test('that does not end when asked is killed after the time', async () => {
    const machine = await running();
    const startedAt = performance.now();
    let asked = 0;
    machine.onPowerOff(async (graceMs) => {
      asked = graceMs;
    });
    expect(await machine.stop({ timeoutMs: 200 })).toMatchObject({ reason: 'killed' });
    expect(asked).toBe(200);
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(190);
    expect(performance.now() - startedAt).toBeLessThan(3000);
  });

  test('drops the oldest console output, and says so once', async () => {
    const drops: number[] = [];
    const machine = await create(programs.idle('x'.repeat(4200)), { consoleBytes: 4096 });
    machine.on('console-overflow', (bytes) => drops.push(bytes));
    await machine.start();
    await expect.poll(() => machine.stats().console.droppedBytes, { timeout: 10_000 }).toBe(104);
    await expect.poll(() => drops).toHaveLength(1);
    expect(machine.consoleTail(8192)).toHaveLength(4096);
  });
});

describeGuest('kill and close work in every state:', () => {
  const states: Record<string, () => Promise<Machine>> = {
    created: () => create(programs.idle()),
    booting: async () => {
      const machine = await create(programs.idle());
      machine.start().catch(() => {});
      return machine;
    },
    running: () => running(),
    pausing: async () => {
      const machine = await running(programs.spin());
      machine.pause().catch(() => {});
      return machine;
    },
    paused: async () => {
      const machine = await running();
      await machine.pause();
      return machine;
    },
    stopping: async () => {
      const machine = await running();
      machine.stop({ timeoutMs: 60_000 }).catch(() => {});
      return machine;
    },
    stopped: async () => {
      const machine = await running();
      await machine.kill();
      return machine;
    },
    crashed: async () => {
      const machine = await running(programs.panic());
      await machine.waitUntilStopped();
      return machine;
    },
  };

  test.each(Object.keys(states))('%s', async (state) => {
    const killed = await states[state]?.();
    const exit = await killed?.kill();
    expect(exit?.reason).toBe(state === 'crashed' ? 'panic' : 'killed');
    await Promise.all([killed?.close(), killed?.close()]);
    await killed?.close();
    const closed = await states[state]?.();
    await closed?.close();
    expect(['stopped', 'crashed']).toContain(closed?.state);
    expect(await closed?.waitUntilStopped()).toBeDefined();
  });
});

describeGuest('calls in the wrong state', () => {
  test('are refused with the state', async () => {
    const machine = await create(programs.idle());
    expect(await rejection(machine.pause())).toMatchObject({
      code: 'ERR_MACHINE_STATE',
      context: { operation: 'pause', state: 'created' },
    });
    expect((await rejection(machine.resume())).code).toBe('ERR_MACHINE_STATE');
    expect((await rejection(machine.connectVsock(1))).code).toMatch(/^ERR_/);
    await machine.start();
    expect((await rejection(machine.start())).code).toBe('ERR_MACHINE_STATE');
    await machine.kill();
    expect((await rejection(machine.start())).code).toBe('ERR_MACHINE_STATE');
    await machine.close();
    expect((await rejection(machine.start())).code).toBe('ERR_MACHINE_CLOSED');
    expect((await rejection(machine.connectVsock(1))).code).toBe('ERR_MACHINE_CLOSED');
    expect(thrown(() => machine.stats()).code).toBe('ERR_MACHINE_CLOSED');
    expect(thrown(() => machine.listenVsock(1, () => {})).code).toBe('ERR_MACHINE_CLOSED');
  });

  test('an abort ends the wait, not the machine', async () => {
    const machine = await running();
    const controller = new AbortController();
    const wait = machine.waitUntilStopped({ signal: controller.signal });
    const stop = machine.stop({ timeoutMs: 60_000, signal: controller.signal });
    controller.abort();
    expect((await rejection(wait)).code).toBe('ERR_ABORTED');
    expect((await rejection(stop)).code).toBe('ERR_ABORTED');
    expect((await machine.kill()).reason).toBe('killed');
    const path = join(directory, 'kernel-1');
    const late = Machine.create(
      { kernel: { path }, vcpus: 1, memoryMib: 32 },
      { signal: AbortSignal.abort() },
    );
    expect((await rejection(late)).code).toBe('ERR_ABORTED');
  });

  test('a port is listened on once', async () => {
    const machine = await create(programs.idle(), { vsock: {} });
    const listener = machine.listenVsock(5000, () => {});
    expect(thrown(() => machine.listenVsock(5000, () => {})).code).toBe('ERR_MACHINE_STATE');
    await listener.close();
    await listener.close();
    await machine.listenVsock(5000, () => {}).close();
  });
});

describeGuest('resources', () => {
  test('are back where they were after 20 machines', async () => {
    const kernel = asset('vmlinux');
    const cycle = async (): Promise<void> => {
      const machine = await Machine.create({
        kernel: { path: kernel, initrd: asset('initramfs.cpio') },
        vcpus: 2,
        memoryMib: 64,
        vsock: {},
        drives: [{ path: asset('base.erofs'), readOnly: true }],
      });
      machine.listenVsock(1024, (stream) => stream.destroy());
      await machine.start();
      await sleep(20);
      await machine.close();
    };
    await cycle();
    await cycle();
    await sleep(100);
    const before = resources();
    for (let count = 0; count < 20; count += 1) await cycle();
    await expect
      .poll(countable, { timeout: 5000 })
      .toEqual({ descriptors: before.descriptors, threads: before.threads });
    // 20 leaked guests of 64 MiB would show; the noise of a garbage collector does not matter.
    expect(resources().rssBytes - before.rssBytes).toBeLessThan(24 * 2 ** 20);
  });

  test('of JavaScript are collected when a machine is closed, whoever listened to it', async () => {
    const closed = async (): Promise<WeakRef<Machine>> => {
      const kernel = { path: await writeKernel(join(directory, 'collected'), programs.idle('up')) };
      const machine = await Machine.create({ kernel, vcpus: 1, memoryMib: 32 });
      machine.on('exit', () => machine.consoleTail());
      await machine.start();
      await machine.close();
      return new WeakRef(machine);
    };
    const machine = await closed();
    // A failed check would hold what it compares.
    const isLeft = (): boolean => {
      collectGarbage();
      return machine.deref() !== undefined;
    };
    await expect.poll(isLeft, { timeout: 5000 }).toBe(false);
  });

  test('are back where they were after machines that were not even started', async () => {
    await (await create(programs.idle())).close();
    await sleep(100);
    const before = countable();
    const machines = await Promise.all(Array.from({ length: 10 }, () => create(programs.idle())));
    await Promise.all(machines.map((machine) => machine.close()));
    await expect.poll(countable, { timeout: 5000 }).toEqual(before);
  });
});

test('probeHost names what the host lacks, and never fails for it', () => {
  const report = probeHost();
  expect(['hardware', 'pvm', 'none']).toContain(report.kvm);
  expect(report.capabilities.length).toBeGreaterThan(5);
  for (const capability of report.capabilities) {
    expect(capability.available || capability.reason !== '').toBe(true);
    expect(capability.available || capability.cure !== '').toBe(true);
  }
});

test('a kernel that cannot be read leaves nothing behind', async () => {
  const before = countable().descriptors;
  await writeFile(join(directory, 'text'), 'this is no kernel');
  const config = { kernel: { path: join(directory, 'text') }, vcpus: 1, memoryMib: 32 };
  await rejection(Machine.create(config));
  expect(countable().descriptors).toEqual(before);
});
