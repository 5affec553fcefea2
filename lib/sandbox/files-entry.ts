/** What the agent says of a file, in the terms of the interface. */
import { constants } from 'node:fs';
import { RpcError } from '../errors.js';
import type { FileInfo } from '../rpc/files-client.js';
import type { FileEntry, FileKind, FileStat } from './files-types.js';

const NS_PER_MS = 1_000_000n;
export const PERMISSIONS = 0o7777;

const kinds: Readonly<Record<number, FileKind>> = {
  [constants.S_IFREG]: 'file',
  [constants.S_IFDIR]: 'directory',
  [constants.S_IFLNK]: 'symlink',
  [constants.S_IFIFO]: 'fifo',
  [constants.S_IFSOCK]: 'socket',
  [constants.S_IFCHR]: 'character-device',
  [constants.S_IFBLK]: 'block-device',
};

export function kindOf(mode: number): FileKind {
  return kinds[mode & constants.S_IFMT] ?? 'unknown';
}

export function toStat(info: FileInfo | undefined): FileStat {
  if (info === undefined) {
    throw new RpcError('ERR_RPC_PROTOCOL', 'the agent described no file where it must');
  }
  return {
    kind: kindOf(info.mode),
    size: Number(info.size),
    mode: info.mode & PERMISSIONS,
    uid: info.uid,
    gid: info.gid,
    links: info.links,
    modified: new Date(Number(info.mtimeNs / NS_PER_MS)),
  };
}

/** An entry of the directory `path`. */
export function toEntry(path: string, info: FileInfo): FileEntry {
  const name = Buffer.from(info.name).toString();
  return { name, path: join(path, name), ...toStat(info) };
}

export function join(directory: string, name: string): string {
  if (name === '') return directory;
  return directory.endsWith('/') ? `${directory}${name}` : `${directory}/${name}`;
}
