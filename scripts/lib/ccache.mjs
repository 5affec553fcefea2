// Compiling through ccache: a fresh clone then finds what another one compiled. Without ccache
// everything works the same, only slower.
import { spawnSync } from 'node:child_process';
import { root } from './root.mjs';

/** @param {Record<string, string>} launcher how the build is told about ccache */
function environment(launcher) {
  if (spawnSync('ccache', ['--version']).error !== undefined) return {};
  // Where the clone lies must not matter.
  return { CCACHE_BASEDIR: root, CCACHE_NOHASHDIR: '1', ...launcher };
}

export const ccacheForGyp = () => environment({ CXX: 'ccache g++' });
export const ccacheForCMake = () => environment({ CMAKE_CXX_COMPILER_LAUNCHER: 'ccache' });
