/** Proxies by their types: none, this library itself, or the program of somebody else. */
import { join } from 'node:path';
import type { ProxyType } from '../../config/virtcontainers/parts.js';
import { VirtcontainersError } from '../../errors.js';
import { signalHelper, startHelper } from '../helper-process.js';
import { builtInProxy } from './built-in.js';
import type { AgentProxy, ProxyParams } from './proxy.js';

const NOOP_URL = 'noopProxyURL';
const NO_PROCESS = 0;

type Arguments = (params: ProxyParams, url: string, debug: boolean) => string[];

const kataArguments: Arguments = ({ id, agentUrl, consoleUrl }, url, debug) => [
  ...['-listen-socket', url, '-mux-socket', agentUrl.replace(/^unix:\/\//, ''), '-sandbox', id],
  ...(debug ? ['-log', 'debug'] : []),
  ...(debug && consoleUrl !== undefined ? ['-agent-logs-socket', consoleUrl] : []),
];

const ccArguments: Arguments = (_params, url, debug) => [
  ...['-uri', url],
  ...(debug ? ['-log', 'debug'] : []),
];

function program(toArguments: Arguments, stopSignal: NodeJS.Signals | undefined): AgentProxy {
  return {
    start: async ({ path = '', debug }, params) => {
      if (path === '' || params.agentUrl === '') {
        const missing = path === '' ? 'path' : 'address of the agent';
        throw new VirtcontainersError('ERR_HELPER_FAILED', `a proxy needs its ${missing}`, {
          context: { sandbox: params.id, missing },
        });
      }
      const url = `unix://${join(params.directory, 'proxy.sock')}`;
      const pid = await startHelper(path, toArguments(params, url, debug), { session: true });
      return { pid, url };
    },
    stop: async (_id, pid) => {
      if (stopSignal !== undefined) signalHelper(pid, stopSignal);
    },
  };
}

const nothing = async (): Promise<void> => {};

export const proxies: Readonly<Record<ProxyType, AgentProxy>> = {
  noopProxy: { start: async () => ({ pid: NO_PROCESS, url: NOOP_URL }), stop: nothing },
  noProxy: {
    start: async (_config, { agentUrl }) => ({ pid: NO_PROCESS, url: agentUrl }),
    stop: nothing,
  },
  kataProxy: program(kataArguments, 'SIGTERM'),
  ccProxy: program(ccArguments, undefined),
  kataBuiltInProxy: builtInProxy,
};
