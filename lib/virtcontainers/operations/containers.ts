/** What becomes of a container, under the lock of its sandbox. */
import { constants } from 'node:os';
import type { ResolvedContainerConfig } from '../../config/virtcontainers/container.js';
import { containerExists } from '../errors.js';
import { isAlive, signalHelper, waitForEnd } from '../helper-process.js';
import type { ContainerRecord } from '../record.js';
import type { Session } from '../session.js';
import { shims } from '../shims/shims.js';
import { Undo } from '../undo.js';
import { attachDevice, detachDevice } from './devices.js';

const SHIM_END_MS = 10_000;

/** Puts a container into the guest, ready to start. */
export async function createContainer(
  session: Session,
  config: ResolvedContainerConfig,
): Promise<void> {
  const { record } = session;
  if (record.containers.some((container) => container.config.id === config.id)) {
    throw containerExists(session.id, config.id);
  }
  const built = await build(session, config);
  record.containers.push({ config, state: 'ready', beforePause: null, ...built });
}

/** A container that was stopped is made anew: the guest has forgotten it. */
export async function startContainer(session: Session, container: ContainerRecord): Promise<void> {
  const { agent } = await session.vm();
  if (container.state === 'stopped') {
    Object.assign(container, await build(session, container.config));
    container.state = 'ready';
  }
  try {
    await agent.startContainer(container.config.id);
  } catch (error) {
    await stopContainer(session, container, true);
    throw error;
  }
  container.state = 'running';
}

/** `force`: whatever the guest says. */
export async function stopContainer(
  session: Session,
  container: ContainerRecord,
  force: boolean,
): Promise<void> {
  const { agent } = await session.vm();
  const { id } = container.config;
  const lenient = force || session.isDead;
  const attempt = async (step: () => Promise<void>): Promise<void> => {
    try {
      await step();
    } catch (error) {
      if (!lenient) throw error;
    }
  };
  if (!session.isDead) {
    if (container.state !== 'ready') {
      await attempt(() => agent.signalProcess(id, id, constants.signals.SIGKILL, true));
    }
    await attempt(() => agent.removeContainer(id));
  }
  await endShim(container.process.pid, session.isDead);
  for (const device of container.devices) await attempt(() => detachDevice(session, device));
  container.devices = [];
  container.state = 'stopped';
  container.beforePause = null;
  container.process.pid = Math.min(container.process.pid, 0);
}

/** One that never started is still in the guest. */
export async function deleteContainer(session: Session, container: ContainerRecord): Promise<void> {
  if (container.state !== 'stopped') await stopContainer(session, container, session.isDead);
  const { record } = session;
  record.containers = record.containers.filter((candidate) => candidate !== container);
}

/** Whether there was a shim that is gone: its container has ended, and nobody has noticed. */
export function hasLostShim({ state, process: { pid } }: ContainerRecord): boolean {
  return state !== 'stopped' && pid > 0 && !isAlive(pid);
}

async function build(session: Session, config: ResolvedContainerConfig) {
  const { agent } = await session.vm();
  const { config: sandbox, proxy } = session.record;
  const { id, cmd } = config;
  const undo = new Undo();
  try {
    const devices: string[] = [];
    for (const info of config.deviceInfos.filter(({ devType }) => devType === 'b')) {
      const device = await attachDevice(session, info);
      undo.add(() => detachDevice(session, device.id));
      devices.push(device.id);
    }
    await agent.createContainer(config);
    undo.add(() => agent.removeContainer(id));
    const pid = await shims[sandbox.shimType].start(sandbox.shimConfig, {
      container: id,
      token: id,
      url: proxy?.url ?? '',
      terminal: cmd?.interactive ?? false,
      detach: cmd?.detach ?? false,
      console: cmd?.console ?? '',
    });
    return { process: { token: id, pid, startTime: Date.now() }, devices };
  } catch (error) {
    await undo.run();
    throw error;
  }
}

/** It ends by itself when its container has; with a VM that has died, it need not. */
async function endShim(pid: number, now: boolean): Promise<void> {
  if (pid <= 0) return;
  if (!now && (await waitForEnd(pid, SHIM_END_MS))) return;
  signalHelper(pid, 'SIGKILL');
}
