/** Shims by their types: nothing, this library itself, or the program of somebody else. */
import type { ResolvedShimConfig, ShimType } from '../../config/virtcontainers/parts.js';
import { VirtcontainersError } from '../../errors.js';
import { startHelper } from '../helper-process.js';
import type { Shim, ShimParams } from './shim.js';

type Arguments = (config: ResolvedShimConfig, params: ShimParams) => string[];

const kataArguments: Arguments = ({ debug, trace }, { container, token, url, ...params }) => [
  ...['-agent', url, '-container', container, '-exec-id', token],
  ...(params.terminal ? ['-terminal'] : []),
  ...(debug ? ['-log', 'debug'] : []),
  ...(debug && params.console !== '' ? ['-agent-logs-socket', params.console] : []),
  ...(trace ? ['-trace'] : []),
];

const ccArguments: Arguments = ({ debug }, { container, token, url }) => [
  ...['-c', container, '-t', token, '-u', url],
  ...(debug ? ['-d'] : []),
];

function without(pid: number): Shim {
  return { start: async () => pid };
}

function program(toArguments: Arguments): Shim {
  return {
    start: async (config, params) => {
      const { path = '' } = config;
      for (const [name, value] of Object.entries({ path, ...required(params) })) {
        if (value !== '') continue;
        throw new VirtcontainersError('ERR_HELPER_FAILED', `a shim needs its ${name}`, {
          context: { container: params.container, missing: name },
        });
      }
      return startHelper(path, toArguments(config, params), {
        session: params.console !== '',
        console: params.console,
        inherit: !params.detach,
      });
    },
  };
}

function required({ url, container, token }: ShimParams): Record<string, string> {
  return { url, container, token };
}

export const shims: Readonly<Record<ShimType, Shim>> = {
  noopShim: without(0),
  kataBuiltInShim: without(-1),
  kataShim: program(kataArguments),
  ccShim: program(ccArguments),
};
