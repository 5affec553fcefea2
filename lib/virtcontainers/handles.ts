/** The handles of this process: one for each sandbox, until it is released. */
import type { VcSandbox } from './sandbox.js';
import { directoryOf } from './store.js';

const handles = new Map<string, VcSandbox>();

export function handleOf(id: string): VcSandbox | undefined {
  return handles.get(directoryOf(id));
}

export function keepHandle(handle: VcSandbox): void {
  handles.set(directoryOf(handle.id), handle);
}

export function forgetHandle(handle: VcSandbox): void {
  const directory = directoryOf(handle.id);
  if (handles.get(directory) === handle) handles.delete(directory);
}
