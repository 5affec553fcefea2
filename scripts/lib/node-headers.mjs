// The prefix whose include/node holds the headers of the running Node, so that node-gyp downloads
// none; undefined where Node was installed without them.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

export function headersOfNode() {
  const prefix = dirname(dirname(process.execPath));
  return existsSync(join(prefix, 'include/node/common.gypi')) ? prefix : undefined;
}
