/**
 * Headers of tar archives: ustar, with pax records (POSIX.1-2008 pax) for what does not fit. Not by
 * tar-stream, whose records are text: values of extended attributes are bytes.
 */

const BLOCK = 512;
const MAX_NAME = 100;
const MAX_OCTAL_12 = 8 ** 11;
const MAX_OCTAL_8 = 8 ** 7;
const CHECKSUM_AT = 148;
const CHECKSUM_BYTES = 8;
const MAGIC = 'ustar\u000000';

export type TarType = 'file' | 'link' | 'symlink' | 'char' | 'block' | 'directory' | 'fifo';

const FLAGS: Readonly<Record<TarType, string>> = {
  file: '0',
  link: '1',
  symlink: '2',
  char: '3',
  block: '4',
  directory: '5',
  fifo: '6',
};

export interface TarItem {
  path: string;
  type: TarType;
  /** Permission bits. */
  mode: number;
  uid?: number;
  gid?: number;
  /** Of a file's content, which follows the header. */
  size?: number;
  /** Whole seconds since the epoch. */
  mtime?: number;
  /** Of a link. */
  target?: string;
  device?: { major: number; minor: number };
  /** Extended attributes; values are bytes. */
  xattrs?: Record<string, Buffer>;
}

/** The header of an item with what must come before it. */
export function tarHeader(item: TarItem): Buffer {
  const { path, target = '', size = 0, uid = 0, gid = 0, mtime = 0 } = item;
  const long: [string, Buffer][] = [];
  if (!fits(path)) long.push(['path', Buffer.from(path)]);
  if (!fits(target)) long.push(['linkpath', Buffer.from(target)]);
  if (size >= MAX_OCTAL_12) long.push(['size', Buffer.from(String(size))]);
  if (uid >= MAX_OCTAL_8) long.push(['uid', Buffer.from(String(uid))]);
  if (gid >= MAX_OCTAL_8) long.push(['gid', Buffer.from(String(gid))]);
  if (mtime < 0 || mtime >= MAX_OCTAL_12) long.push(['mtime', Buffer.from(String(mtime))]);
  for (const [name, value] of Object.entries(item.xattrs ?? {})) {
    long.push([`SCHILY.xattr.${name}`, value]);
  }
  const header = ustar(item, FLAGS[item.type], size);
  if (long.length === 0) return header;
  const records = Buffer.concat(long.map(([key, value]) => paxRecord(key, value)));
  const prefix = ustar({ path: 'pax', type: 'file', mode: 0o644 }, 'x', records.length);
  return Buffer.concat([prefix, records, padding(records.length), header]);
}

/** What follows content of `bytes`. */
export function padding(bytes: number): Buffer {
  return Buffer.alloc((BLOCK - (bytes % BLOCK)) % BLOCK);
}

/** Two blocks of zeros. */
export const tarEnd: Buffer = Buffer.alloc(2 * BLOCK);

function ustar(item: TarItem, flag: string, size: number): Buffer {
  const { path, mode, uid = 0, gid = 0, mtime = 0, target = '', device } = item;
  const header = Buffer.alloc(BLOCK);
  header.set(Buffer.from(path).subarray(0, MAX_NAME), 0);
  octal(header, 100, 8, mode);
  octal(header, 108, 8, uid);
  octal(header, 116, 8, gid);
  octal(header, 124, 12, size);
  octal(header, 136, 12, Math.max(0, mtime));
  header.write(flag, 156, 'latin1');
  header.set(Buffer.from(target).subarray(0, MAX_NAME), 157);
  header.write(MAGIC, 257, 'latin1');
  octal(header, 329, 8, device?.major ?? 0);
  octal(header, 337, 8, device?.minor ?? 0);
  header.fill(' ', CHECKSUM_AT, CHECKSUM_AT + CHECKSUM_BYTES, 'latin1');
  const checksum = header.reduce((sum, byte) => sum + byte, 0);
  header.write(`${checksum.toString(8).padStart(6, '0')}\0 `, CHECKSUM_AT, 'latin1');
  return header;
}

function octal(header: Buffer, at: number, bytes: number, value: number): void {
  // What does not fit is in a pax record, which counts.
  const text = value.toString(8).padStart(bytes - 1, '0');
  header.write(text.length < bytes ? text : '0'.repeat(bytes - 1), at, 'latin1');
}

function fits(text: string): boolean {
  return Buffer.byteLength(text) <= MAX_NAME;
}

/** `<length> <key>=<value>\n`, where the length counts itself. */
function paxRecord(key: string, value: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(` ${key}=`), value, Buffer.from('\n')]);
  let length = body.length;
  for (let digits = 0; digits !== String(length).length; ) {
    digits = String(length).length;
    length = body.length + digits;
  }
  return Buffer.concat([Buffer.from(String(length)), body]);
}
