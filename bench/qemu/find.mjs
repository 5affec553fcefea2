// The QEMU that is installed, or what to install.
import { spawnSync } from 'node:child_process';
import { Failure } from '../../scripts/lib/failure.mjs';

const PROGRAM = 'qemu-system-x86_64';

/** There is no QEMU to compare with. */
export class QemuMissing extends Failure {
  code = 'ERR_QEMU_MISSING';
}

/** Which QEMU this is, such as `7.2.22`. */
export function findQemu(program = PROGRAM) {
  const { error, stdout } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  const [, version] = /version ([0-9.]+)/.exec(stdout ?? '') ?? [];
  if (error === undefined && version !== undefined) return { program, version };
  throw new QemuMissing(
    `--compare qemu: ${program} ${error === undefined ? 'does not tell its version' : 'was not found'}. ` +
      'Install it with: apt-get install --no-install-recommends qemu-system-x86',
  );
}
