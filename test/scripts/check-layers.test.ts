import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const path = (name: string): string => fileURLToPath(new URL(`../../${name}`, import.meta.url));

let tree: string;
beforeEach(() => {
  tree = mkdtempSync(join(tmpdir(), 'embervm-layers-'));
  cpSync(path('layers.json'), join(tree, 'layers.json'));
  write('native/sources.json', '{ "core": [], "napi": [] }');
});
afterEach(() => rmSync(tree, { recursive: true }));

function write(name: string, text: string): void {
  mkdirSync(dirname(join(tree, name)), { recursive: true });
  writeFileSync(join(tree, name), text);
}

function check(): { status: number | null; stderr: string } {
  return spawnSync(process.execPath, [path('scripts/check-layers.mjs'), tree], {
    encoding: 'utf8',
  });
}

describe('check-layers', () => {
  it('accepts uses of lower tiers and of the own folder', () => {
    write('native/machine/a.h', '#include "base/x.h"\n#include "machine/b.h"\n#include <vector>\n');
    write('native/napi/a.h', '#include <napi.h>\n#include "machine/a.h"\n');
    write('lib/sandbox/a.ts', "import { x } from '../machine/x.js';\nimport './b.js';\n");
    write('lib/index.ts', "export { x } from './sandbox/a.js';\n");
    expect(check()).toMatchObject({ status: 0, stderr: '' });
  });

  it.each([
    ['native/base/a.h', '#include "kvm/x.h"\n', '"base" may not use "kvm/x.h"'],
    ['native/kvm/a.h', '#include "virtio/x.h"\n', '"kvm" may not use "virtio/x.h"'],
    ['native/base/a.h', '#include "elsewhere/x.h"\n', '"base" may not use "elsewhere/x.h"'],
    ['native/other/a.h', '', '"other" has no tier'],
    ['native/machine/a.h', '#include <napi.h>\n', 'only native/napi may include <napi.h>'],
    ['native/test/a.h', '#include <uv.h>\n', 'only native/napi may include <uv.h>'],
    ['native/base/a.cc', '', 'is in no list of native/sources.json'],
    ['lib/config/a.ts', "import { x } from '../rpc/x.js';\n", '"config" may not use "rpc/x.js"'],
    ['lib/rpc/a.ts', "export * from '../state/x.js';\n", '"rpc" may not use "state/x.js"'],
    ['lib/rpc/a.ts', "await import('../index.js');\n", '"rpc" may not use "index.js"'],
    ['lib/machine/a.ts', '\n'.repeat(801), '801 lines, the most is 800'],
  ])('refuses %s with %j', (name, text, message) => {
    write(name, text);
    const { status, stderr } = check();
    expect(stderr).toContain(message);
    expect(status).toBe(1);
  });

  it('refuses a listed source that is not there', () => {
    write('native/sources.json', '{ "core": ["native/base/gone.cc"], "napi": [] }');
    expect(check().stderr).toContain('native/base/gone.cc does not exist');
  });
});
