import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkInstall, checkKvm, checkNode } from '../../scripts/lib/host.mjs';

const hostModule = fileURLToPath(new URL('../../scripts/lib/host.mjs', import.meta.url));
const NOBODY = 65534;

describe('checkNode', () => {
  it('accepts the floor and everything above', () => {
    for (const version of ['20.19.0', '20.20.2', '22.1.0', '24.0.0']) {
      expect(checkNode(version)).toBeUndefined();
    }
  });

  it('names the floor when Node is older', () => {
    expect(checkNode('20.18.3')).toBe('Node 20.18.3 is too old: install Node 20.19 or newer.');
    expect(checkNode('18.20.0')).toMatch(/too old/);
  });
});

describe('checkInstall', () => {
  it('asks for nothing when nothing is missing, whoever runs it', () => {
    expect(checkInstall([], { uid: 1000, apt: false })).toBeUndefined();
  });

  it('lets root install with apt-get', () => {
    expect(checkInstall(['bc'], { uid: 0, apt: true })).toBeUndefined();
  });

  it('tells another user the command that root runs', () => {
    expect(checkInstall(['bc', 'flex'], { uid: 1000, apt: true })).toBe(
      'Installing Debian packages needs root: run "apt-get install bc flex" as root, or run this command as root.',
    );
  });

  it('says so where there is no apt-get', () => {
    expect(checkInstall(['bc'], { uid: 0, apt: false })).toMatch(/no apt-get.*bc/);
  });
});

describe('checkKvm', () => {
  let folder: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'embervm-host-'));
    chmodSync(folder, 0o755);
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it('says how to load the module when the device is absent', () => {
    const sentence = checkKvm(join(folder, 'kvm'));
    expect(sentence).toMatch(/does not exist.*modprobe kvm_intel/);
    expect(sentence).not.toContain('\n');
  });

  it('accepts a device that can be read and written', () => {
    const device = join(folder, 'kvm');
    writeFileSync(device, '');
    expect(checkKvm(device)).toBeUndefined();
  });

  it('names the group when the device may not be opened', () => {
    const device = join(folder, 'kvm');
    writeFileSync(device, '', { mode: 0o600 });
    // Root may open everything, so root asks as somebody else; others lock themselves out.
    const isRoot = process.getuid?.() === 0;
    if (!isRoot) chmodSync(device, 0);
    const script = `import { checkKvm } from ${JSON.stringify(hostModule)};
      console.log(checkKvm(${JSON.stringify(device)}));`;
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      ...(isRoot ? { uid: NOBODY, gid: NOBODY } : {}),
    });
    expect(stdout).toMatch(/is not readable and writable for .*usermod -aG kvm/);
  });
});
