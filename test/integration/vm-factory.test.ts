import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import {
  createFromCache,
  createFromTemplate,
  createNew,
  Sandbox,
  type VmCacheOptions,
  type VmFactory,
} from '../../lib/index.js';
import { BOOT_TIMEOUT_MS, describeGuest, small, useHome } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';
import { countable } from '../helpers/resources.js';

const home = useHome();
const SANDBOX = { memoryMib: 128 };
const MIB = 1024 * 1024;
/** More than what else goes on here takes or gives back meanwhile, where there is as much. */
const MARGIN_MIB = Math.min(1536, Math.floor(freemem() / MIB / 4));
/** Takes as many MiB as it is told to, until it is killed. */
const HOG =
  'globalThis.b = Buffer.alloc(Number(process.argv[1]) * 2 ** 20, 1); setInterval(() => {}, 1e6)';
const WAIT = { timeout: 60_000, interval: 200 };
const disksOf = (name: string): string[] =>
  readdirSync(join(home, 'cache', name)).filter((file) => file.endsWith('.ext4'));
const cached = (): string[] => readdirSync(join(home, 'cache'));

describeGuest('a cache of VMs', () => {
  test(
    'gives what waits, and makes more',
    async () => {
      const template = createFromTemplate();
      let made = 0;
      const base: VmFactory = {
        newVm: (request) => {
          made += 1;
          return template.newVm(request);
        },
      };
      // So that a guest that boots is not what the test waits for.
      await (await Sandbox.create(small())).close();
      const before = countable();
      const cache = await createFromCache({ size: 2, sandbox: SANDBOX, base });
      try {
        await cache.filled();
        expect(cache.status).toEqual({ size: 2, ready: 2, making: 0, lastError: undefined });
        expect(made).toBe(2);

        const [one, two] = await Promise.all(
          ['one', 'two'].map((hostname) => Sandbox.create(small({ vmFactory: cache, hostname }))),
        );
        if (one === undefined || two === undefined) throw new Error('two were asked for');
        const facts = 'hostname; cat /proc/sys/kernel/random/uuid';
        const outputs = await Promise.all([one, two].map((sandbox) => sandbox.shell(facts)));
        const [first, second] = outputs.map(({ stdout }) => stdout.trim().split('\n'));
        expect(first?.[0]).toBe('one');
        expect(second?.[0]).toBe('two');
        expect(first?.[1]).not.toBe(second?.[1]);
        for (const sandbox of [one, two]) {
          expect(sandbox.bootReport().start).toBe('cached');
          await sandbox.shell('echo kept > /note && sync');
          await sandbox.close();
        }
        await cache.filled();
        expect(cache.status.ready).toBe(2);
      } finally {
        await cache.close();
      }
      await cache.close();
      expect(countable()).toEqual(before);
      expect(cached()).toEqual([]);
      const error = await rejection(Sandbox.create(small({ vmFactory: cache })));
      expect(error.code).toBe('ERR_FACTORY_CLOSED');
    },
    BOOT_TIMEOUT_MS,
  );

  test('has nothing for sandboxes of another kind, nor where memory is short', async () => {
    const refused = new Error('only what waits');
    const asked: number[] = [];
    const base: VmFactory = {
      newVm: async ({ config }) => {
        asked.push(config.memoryMib);
        throw refused;
      },
    };
    const options = { size: 1, sandbox: SANDBOX, base, minFreeMib: 2 ** 30 } as const;
    await using cache = await createFromCache(options);
    await cache.filled();
    expect(cache.status).toMatchObject({ ready: 0, making: 0 });
    const create = (memoryMib: number): Promise<unknown> =>
      Sandbox.create({ memoryMib, vmFactory: cache }).catch((error: unknown) => error);
    expect(await create(128)).toBe(refused);
    expect(await create(160)).toBe(refused);
    expect(asked).toEqual([128, 160]);
  });

  test(
    'gives VMs back where memory runs short, and fills up again',
    async () => {
      await (await Sandbox.create(small())).close();
      const availableMib = Math.floor(freemem() / MIB);
      const minFreeMib = availableMib - MARGIN_MIB;
      await using cache = await createFromCache({ size: 1, sandbox: SANDBOX, minFreeMib });
      await cache.filled();
      expect(cache.status).toMatchObject({ ready: 1, lastError: undefined });
      expect(cached()).toHaveLength(1);

      const hog = spawn(process.execPath, ['-e', HOG, String(2 * MARGIN_MIB)]);
      try {
        await vi.waitFor(() => expect(cache.status.ready).toBe(0), WAIT);
        // Its disk goes with it.
        const disks = (): string[] => cached().flatMap((name) => disksOf(name));
        await vi.waitFor(() => expect(disks()).toEqual([]), WAIT);
      } finally {
        hog.kill('SIGKILL');
      }
      await vi.waitFor(() => expect(cache.status.ready).toBe(1), WAIT);
    },
    BOOT_TIMEOUT_MS,
  );

  test('gives up for a while when none can be made, and says why', async () => {
    const broken = new Error('broken');
    const base: VmFactory = { newVm: () => Promise.reject(broken) };
    await using cache = await createFromCache({ size: 1, sandbox: SANDBOX, base });
    await cache.filled();
    expect(cache.status).toMatchObject({ ready: 0, lastError: broken });
    expect(cached()).toHaveLength(1);
  });

  test.each([
    [{ size: 0 }],
    [{ size: 1.5 }],
    [{ size: 1, base: {} }],
    [{ size: 1, sandbox: { memoryMib: 0 } }],
    [{ size: 1, sandbox: { name: 'x' } }],
    [{}],
  ])('refuses %j', async (options) => {
    const error = await rejection(createFromCache(options as VmCacheOptions));
    expect(error.code).toBe('ERR_INVALID_CONFIG');
  });
});

describeGuest('a factory of the caller', () => {
  test('has to hand the request on', async () => {
    const other = await Sandbox.create(small());
    try {
      const vmFactory = { newVm: async () => ({ machine: other }) };
      const error = await rejection(Sandbox.create(small({ vmFactory })));
      expect(error).toMatchObject({ code: 'ERR_INVALID_CONFIG' });
      expect(error.message).toContain('vmFactory');
      const nothing = { newVm: async () => undefined as never };
      expect((await rejection(Sandbox.create(small({ vmFactory: nothing })))).code).toBe(
        'ERR_INVALID_CONFIG',
      );
    } finally {
      await other.close();
    }
    expect(readdirSync(join(home, 'sandboxes'))).toEqual([]);
  });

  test(
    'may boot each VM',
    async () => {
      await using sandbox = await Sandbox.create(small({ vmFactory: createNew() }));
      expect(sandbox.bootReport().start).toBe('cold');
    },
    BOOT_TIMEOUT_MS,
  );
});
