/** The built-in VM factories, loaded when they are used. */
import type { VmCache, VmCacheOptions } from './vm/vm-cache.js';
import type { VmFactory } from './vm/vm-factory.js';

/** Each VM boots its kernel: what `warmStart: 'off'` does. */
export function createNew(): VmFactory {
  return {
    newVm: async (request) => (await import('./vm/factories.js')).coldFactory.newVm(request),
  };
}

/**
 * A VM goes on from the template of its kind; the first one boots and leaves it. What sandboxes do
 * by themselves.
 */
export function createFromTemplate(): VmFactory {
  return {
    newVm: async (request) => (await import('./vm/factories.js')).templateFactory.newVm(request),
  };
}

/**
 * Keeps VMs ready, in the background: a sandbox that takes one waits for nothing but its own
 * set-up. To be closed.
 *
 * @example
 * await using cache = await createFromCache({ size: 4, sandbox: { memoryMib: 128 } });
 * const sandbox = await Sandbox.create({ memoryMib: 128, vmFactory: cache });
 */
export async function createFromCache(options: VmCacheOptions): Promise<VmCache> {
  const { VmCache } = await import('./vm/vm-cache.js');
  return new VmCache(options);
}
