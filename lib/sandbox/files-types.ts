/** What `sandbox.files` gives. */

export type FileKind =
  | 'file'
  | 'directory'
  | 'symlink'
  | 'fifo'
  | 'socket'
  | 'character-device'
  | 'block-device'
  | 'unknown';

export interface FileStat {
  kind: FileKind;
  /** In bytes. */
  size: number;
  /** Permission bits, such as `0o644`. */
  mode: number;
  uid: number;
  gid: number;
  /** How many names it has. */
  links: number;
  modified: Date;
}

/** One entry of a directory; a symbolic link is described itself. */
export interface FileEntry extends FileStat {
  name: string;
  path: string;
}

/**
 * `overflow`: changes were lost, because they came faster than they were taken; look
 * at the files again. A rename is a `remove` and a `create`.
 */
export type FileChangeType = 'create' | 'modify' | 'attributes' | 'remove' | 'overflow';

export interface FileChange {
  type: FileChangeType;
  /** Absolute; of an overflow, what is watched. */
  path: string;
  directory: boolean;
}

/** Changes as they happen. Ends with `return`, `close`, or its signal. */
export interface FileWatcher
  extends AsyncIterableIterator<FileChange, void, void>,
    AsyncDisposable {
  /** Resolves when no change from now on is missed. */
  readonly ready: Promise<void>;
  close(): Promise<void>;
}

/** What a copy between host and guest has done. */
export interface CopyResult {
  files: number;
  directories: number;
  symlinks: number;
  bytes: number;
  /** Files that changed while they were copied, the first hundred of them. */
  changed: string[];
}

export type FileSource =
  | string
  | Uint8Array
  | AsyncIterable<string | Uint8Array>
  | Iterable<string | Uint8Array>;
