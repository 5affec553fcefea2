/** Errors of files, wherever they are. */
import { type CodeOf, FileError } from '../errors.js';

type FileCode = CodeOf<'FileError'>;

const codes: Readonly<Record<string, FileCode>> = {
  ENOENT: 'ERR_FILE_NOT_FOUND',
  EEXIST: 'ERR_FILE_EXISTS',
  ENOTEMPTY: 'ERR_FILE_NOT_EMPTY',
  ENOTDIR: 'ERR_FILE_NOT_DIRECTORY',
  EISDIR: 'ERR_FILE_IS_DIRECTORY',
  EACCES: 'ERR_FILE_ACCESS',
  EPERM: 'ERR_FILE_ACCESS',
  EROFS: 'ERR_FILE_ACCESS',
  ENOSPC: 'ERR_FILE_NO_SPACE',
  EDQUOT: 'ERR_FILE_NO_SPACE',
  ENXIO: 'ERR_FILE_SPECIAL',
};

const reasons: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file or directory',
  EEXIST: 'it exists already',
  ENOTEMPTY: 'the directory is not empty; pass "recursive: true" to remove what is in it, too',
  ENOTDIR: 'it, or what is above it, is not a directory',
  EISDIR: 'it is a directory',
  EACCES: 'access is denied',
  EPERM: 'it is not permitted',
  EROFS: 'the file system is read-only',
  ENOSPC: 'no space is left',
  EDQUOT: 'the quota is used up',
  ENXIO: 'it is neither a file nor a directory nor a symbolic link',
  EBUSY: 'it is in use, or is the root',
  EINVAL: 'the file system, or the order of things, does not allow it',
  ELOOP: 'there are too many symbolic links',
  ENAMETOOLONG: 'a name or the depth is beyond what the kernel takes',
  EXDEV: 'the two are on different file systems',
};

/** What was tried, for the message: `cannot <verb> "<path>"`. */
export interface FileOperation {
  verb: string;
  path: string;
}

export function fileError(
  { verb, path }: FileOperation,
  errno: string | undefined,
  syscall: string | undefined,
  cause?: unknown,
): FileError {
  const code = (errno !== undefined && codes[errno]) || 'ERR_FILE_FAILED';
  const reason = (errno !== undefined && reasons[errno]) || 'the call failed';
  const detail = [errno, syscall].filter((part) => part !== undefined && part !== '').join(', ');
  return new FileError(code, `cannot ${verb} ${JSON.stringify(path)}: ${reason} (${detail})`, {
    errno,
    syscall,
    path,
    cause,
    context: { path },
  });
}

/** The failure of a call of ours on a file of the host; other errors stay as they are. */
export function hostFileError(operation: FileOperation, error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof FileError) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (typeof code !== 'string' || !/^E[A-Z0-9]+$/.test(code)) return error;
  return fileError(operation, code, syscall, error);
}

export function specialFileError(path: string): FileError {
  return new FileError(
    'ERR_FILE_SPECIAL',
    `cannot copy ${JSON.stringify(path)}: ${reasons.ENXIO}; leave it out`,
    { path, context: { path } },
  );
}
