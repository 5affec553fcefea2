/** How failures with snapshots are told. */
import { MachineError } from '../../errors.js';

export function snapshotWriteError(action: string, path: string, cause: unknown): MachineError {
  return failure('ERR_SNAPSHOT_WRITE', action, path, cause);
}

export function snapshotReadError(action: string, path: string, cause: unknown): MachineError {
  return failure('ERR_SNAPSHOT_READ', action, path, cause);
}

function failure(
  code: 'ERR_SNAPSHOT_WRITE' | 'ERR_SNAPSHOT_READ',
  action: string,
  path: string,
  cause: unknown,
): MachineError {
  const { code: errno, syscall, message } = cause as NodeJS.ErrnoException;
  return new MachineError(code, `cannot ${action} ${path}: ${errno ?? message}`, {
    cause,
    errno,
    syscall,
    context: { path },
  });
}

export function snapshotNotFound(name: string): MachineError {
  return new MachineError('ERR_SNAPSHOT_NOT_FOUND', `there is no snapshot named "${name}"`, {
    context: { name },
  });
}

export function snapshotInvalid(name: string, why: string, file?: string): MachineError {
  return new MachineError(
    'ERR_SNAPSHOT_INVALID',
    `the snapshot "${name}" cannot be used: ${why}. Take it anew, or import it again`,
    { context: { name, ...(file === undefined ? {} : { file }) } },
  );
}

export function snapshotBusy(name: string): MachineError {
  return new MachineError(
    'ERR_SNAPSHOT_BUSY',
    `the snapshot "${name}" is being written or removed by somebody else. Wait for it`,
    { context: { name } },
  );
}

export function snapshotExists(name: string): MachineError {
  return new MachineError(
    'ERR_SNAPSHOT_EXISTS',
    `there is a snapshot named "${name}" already. Remove it, replace it, or choose another name`,
    { context: { name } },
  );
}

export function archiveInvalid(archive: string, why: string, cause?: unknown): MachineError {
  return new MachineError(
    'ERR_SNAPSHOT_INVALID',
    `${archive} is not a whole archive of a snapshot: ${why}. Export it again`,
    { cause, context: { path: archive } },
  );
}
