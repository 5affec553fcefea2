/**
 * The proxy that is this library: vsock carries many connections, so nothing has to be multiplexed
 * and the agent's address stays. With `debug`, and where the console has an address, its lines are
 * handed to `process.emitWarning`'s quieter sibling, the diagnostics channel `embervm.console`.
 */
import { channel } from 'node:diagnostics_channel';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { VirtcontainersError } from '../../errors.js';
import type { AgentProxy } from './proxy.js';

const UNIX = 'unix://';

/** Consoles that are read, by the ids of their sandboxes. */
const watched = new Map<string, Socket>();

/** `{ sandbox, line }` for each line. */
const lines = channel('embervm.console');

export const builtInProxy: AgentProxy = {
  start: async ({ debug }, { id, agentUrl, consoleUrl }) => {
    if (debug && consoleUrl !== undefined) await watch(id, consoleUrl);
    return { pid: 0, url: agentUrl };
  },
  stop: async (id) => {
    watched.get(id)?.destroy();
    watched.delete(id);
  },
};

async function watch(id: string, url: string): Promise<void> {
  if (watched.has(id)) throw failure(id, 'its console is watched already');
  if (!url.startsWith(UNIX)) throw failure(id, `its console ${url} is no ${UNIX} address`);
  const socket = connect(url.slice(UNIX.length));
  watched.set(id, socket);
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
  } catch (cause) {
    watched.delete(id);
    throw failure(id, `its console cannot be read: ${(cause as Error).message}`, cause);
  }
  socket.unref();
  socket.on('error', () => {});
  socket.once('close', () => {
    if (watched.get(id) === socket) watched.delete(id);
  });
  createInterface({ input: socket }).on('line', (line) => lines.publish({ sandbox: id, line }));
}

function failure(id: string, why: string, cause?: unknown): VirtcontainersError {
  return new VirtcontainersError('ERR_HELPER_FAILED', `the proxy of "${id}": ${why}`, {
    cause,
    context: { sandbox: id },
  });
}
