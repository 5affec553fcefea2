// Writes a cpio archive in the "newc" format (Documentation/driver-api/early-userspace in the
// kernel's tree): node pack.mjs <init> [<containers>] <output>. Needs no privilege for the device node,
// and the same program gives the same bytes.
import { readFileSync, writeFileSync } from 'node:fs';

const DIRECTORY = 0o040000;
const CHARACTER_DEVICE = 0o020000;
const REGULAR = 0o100000;
const CONSOLE = { major: 5, minor: 1 };
const ALIGNMENT = 4;

const [init, ...rest] = process.argv.slice(2);
const output = rest.pop();
const [containers] = rest;
if (init === undefined || output === undefined) {
  throw new Error('usage: pack.mjs <init> [<containers>] <output>');
}

const parts = [];
let inode = 0;

function pad(length) {
  parts.push(Buffer.alloc((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT));
}

function add(name, mode, { data = Buffer.alloc(0), device = { major: 0, minor: 0 } } = {}) {
  const path = Buffer.from(`${name}\0`);
  const links = (mode & DIRECTORY) !== 0 ? 2 : 1;
  const fields = [
    inode++,
    mode,
    0, // uid
    0, // gid
    links,
    0, // mtime
    data.length,
    0, // major and minor of the file system
    0,
    device.major,
    device.minor,
    path.length,
    0, // checksum, unused in this format
  ];
  const header = Buffer.from(
    `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`,
  );
  parts.push(header, path);
  pad(header.length + path.length);
  parts.push(data);
  pad(data.length);
}

add('dev', DIRECTORY | 0o755);
add('dev/console', CHARACTER_DEVICE | 0o600, { device: CONSOLE });
add('init', REGULAR | 0o755, { data: readFileSync(init) });
if (containers !== undefined) {
  add('containers', REGULAR | 0o755, { data: readFileSync(containers) });
}
add('TRAILER!!!', 0);
writeFileSync(output, Buffer.concat(parts));
