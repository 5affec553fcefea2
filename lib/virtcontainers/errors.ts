/** Errors that several operations make. */
import { SandboxError, VirtcontainersError } from '../errors.js';

/** Before anything else is looked at. */
export function needSandboxId(id: unknown): void {
  if (typeof id === 'string' && id !== '') return;
  throw new VirtcontainersError('ERR_NEED_SANDBOX_ID', 'the id of the sandbox is empty');
}

export function needContainerId(id: unknown): void {
  if (typeof id === 'string' && id !== '') return;
  throw new VirtcontainersError('ERR_NEED_CONTAINER_ID', 'the id of the container is empty');
}

export function sandboxNotFound(id: string): SandboxError {
  return new SandboxError('ERR_SANDBOX_NOT_FOUND', `there is no sandbox "${id}"`, {
    context: { sandbox: id },
  });
}

export function sandboxExists(id: string): SandboxError {
  return new SandboxError(
    'ERR_SANDBOX_EXISTS',
    `there is a sandbox "${id}" already. Delete it, or choose another id`,
    { context: { sandbox: id } },
  );
}

export function containerNotFound(sandbox: string, container: string): VirtcontainersError {
  return new VirtcontainersError(
    'ERR_CONTAINER_NOT_FOUND',
    `the sandbox "${sandbox}" has no container "${container}"`,
    { context: { sandbox, container } },
  );
}

export function containerExists(sandbox: string, container: string): VirtcontainersError {
  return new VirtcontainersError(
    'ERR_CONTAINER_EXISTS',
    `the sandbox "${sandbox}" has a container "${container}" already`,
    { context: { sandbox, container } },
  );
}

/** The VM is in another process, which alone can act on it. */
export function notOwner(sandbox: string, pid: number): SandboxError {
  return new SandboxError(
    'ERR_SANDBOX_NOT_OWNER',
    `the VM of the sandbox "${sandbox}" is in process ${pid}. Make the call there`,
    { context: { sandbox, pid } },
  );
}

export function vmDied(sandbox: string, reason: string, consoleTail = ''): SandboxError {
  return new SandboxError(
    'ERR_SANDBOX_CRASHED',
    `the VM of the sandbox "${sandbox}" has died: ${reason}. Stop or delete the sandbox`,
    { reason, consoleTail, context: { sandbox } },
  );
}
