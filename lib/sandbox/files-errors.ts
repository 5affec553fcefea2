/** Errors of files of the guest. */
import type { FileError } from '../errors.js';
import type { FileEvent } from '../rpc/files-client.js';
import { type FileOperation, fileError } from '../state/file-errors.js';
import { join } from './files-entry.js';
import { errnoName } from './signals.js';

/** The guest's word goes into messages: not more than a path can be. */
const MAX_TOLD_PATH = 4096;

/** The failure that an event of the agent tells. */
export function guestFileError(operation: FileOperation, event: FileEvent): FileError {
  const told = Buffer.from(event.path.subarray(0, MAX_TOLD_PATH)).toString();
  const path = told.startsWith('/') ? told : join(operation.path, told);
  const errno = errnoName(event.errno) ?? `errno ${event.errno}`;
  const syscall = /^\w{1,32}$/.test(event.call) ? event.call : undefined;
  return fileError({ ...operation, path }, errno, syscall);
}
