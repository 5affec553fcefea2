/** Loads the addon, when it is first needed. Nothing else knows where it is. */
import { createRequire } from 'node:module';
import { HostError } from '../errors.js';
import { packageRoot } from './package-root.js';
import type { NativeBinding } from './types.js';

let binding: NativeBinding | undefined;

/** The addon; throws `ERR_NATIVE_MISSING` where none fits this process. */
export function loadBinding(): NativeBinding {
  binding ??= load();
  return binding;
}

function load(): NativeBinding {
  const require = createRequire(import.meta.url);
  try {
    const find = require('node-gyp-build') as (directory: string) => NativeBinding;
    return find(packageRoot());
  } catch (cause) {
    throw new HostError(
      'ERR_NATIVE_MISSING',
      `no native addon for ${process.platform}-${process.arch} could be loaded from ` +
        `${packageRoot()}: ${firstLine(cause)}. In a checkout, run "npm run setup"; otherwise ` +
        'install the package again on Linux x64 with glibc',
      { cause, context: { platform: process.platform, arch: process.arch } },
    );
  }
}

function firstLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.split('\n', 1)[0] ?? '';
}
