/** Processes of containers: new ones, signals to them, their streams and their ends. */
import { randomUUID } from 'node:crypto';
import type { ResolvedCmd } from '../../config/virtcontainers/container.js';
import type { ContainerRecord } from '../record.js';
import type { Session } from '../session.js';
import { shims } from '../shims/shims.js';
import type { Process } from '../types.js';

/** Not kept in the record: who runs it knows it. */
export async function enterContainer(
  session: Session,
  container: ContainerRecord,
  cmd: ResolvedCmd,
): Promise<Process> {
  const { agent } = await session.vm();
  const { config, proxy } = session.record;
  const token = randomUUID();
  await agent.execProcess(container.config.id, token, cmd);
  const pid = await shims[config.shimType].start(config.shimConfig, {
    container: container.config.id,
    token,
    url: proxy?.url ?? '',
    terminal: cmd.interactive,
    detach: cmd.detach,
    console: cmd.console,
  });
  return { token, pid, startTime: new Date() };
}

/** The token of a process: the first one has its container's id, or none is named. */
export function tokenOf(containerId: string, processId: string): string {
  return processId === '' ? containerId : processId;
}
