/** What becomes of a sandbox, under its lock. */
import type { ResolvedVcSandboxConfig } from '../../config/virtcontainers/sandbox.js';
import { hostnameFor } from '../../state/names.js';
import { proxies } from '../proxies/proxies.js';
import { RECORD_VERSION, type SandboxRecord } from '../record.js';
import { Session } from '../session.js';
import { directoryOf, holdVm, removeSandbox } from '../store.js';
import type { ResumeOptions } from '../types.js';
import { Undo } from '../undo.js';
import { endMonitors, endsWithProcess, forgetVm, newVm } from '../vms.js';
import { createContainer, hasLostShim, startContainer, stopContainer } from './containers.js';

/** A sandbox that is not there yet. */
export function newRecord(id: string, config: ResolvedVcSandboxConfig): SandboxRecord {
  const { id: _id, containers: _containers, ...rest } = config;
  return {
    version: RECORD_VERSION,
    id,
    createdAt: Date.now(),
    state: 'stopped',
    owner: null,
    config: { ...rest, hostname: rest.hostname ?? hostnameFor(id) },
    proxy: null,
    containers: [],
    devices: [],
    interfaces: [],
    routes: [],
  };
}

/** Starts the VM and makes the containers. Nothing is left where it fails. */
export async function createSandbox(
  record: SandboxRecord,
  config: ResolvedVcSandboxConfig,
  start: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  const session = new Session(record);
  try {
    await startVm(session, signal);
    for (const container of config.containers) await createContainer(session, container);
    if (start) await startContainers(session);
    await session.save();
  } catch (error) {
    await stopSandbox(session, true).catch(() => {});
    throw error;
  }
}

/** Boots the VM again where the sandbox was stopped. */
export async function startSandbox(session: Session, signal?: AbortSignal): Promise<void> {
  const boots = session.record.state === 'stopped';
  if (boots) await startVm(session, signal);
  try {
    await startContainers(session);
  } catch (error) {
    if (boots) await stopSandbox(session, true).catch(() => {});
    await session.save();
    throw error;
  }
  await session.save();
}

/** `force`: whatever the guest says. A VM that has died is stopped as well. */
export async function stopSandbox(session: Session, force: boolean): Promise<void> {
  const { record } = session;
  if (record.state === 'stopped') return;
  const vm = await session.vm();
  endMonitors(vm);
  // A guest whose CPUs stand still answers nothing.
  if (record.state === 'paused' && !session.isDead) await vm.hypervisor.resume().catch(() => {});
  for (const container of record.containers) {
    if (container.state !== 'stopped') await stopContainer(session, container, force);
  }
  if (!session.isDead) await vm.agent.destroySandbox().catch(() => {});
  await stopProxy(record);
  await vm.hypervisor.stop();
  await forgetVm(record.id);
  record.state = 'stopped';
  record.owner = null;
  record.devices = [];
  record.interfaces = [];
  record.routes = [];
}

/** The VM first: what was removed can be stopped by nobody. */
export async function deleteSandbox(session: Session): Promise<void> {
  await stopSandbox(session, true);
  await forgetVm(session.id);
  await removeSandbox(session.id);
}

export async function pauseSandbox(session: Session): Promise<void> {
  const { record } = session;
  const vm = await session.vm();
  await vm.hypervisor.pause();
  // A guest that stands still would be taken for one that is lost.
  endMonitors(vm);
  for (const container of record.containers) {
    container.beforePause = container.state;
    if (container.state === 'running') container.state = 'paused';
  }
  record.state = 'paused';
  await session.save();
}

export async function resumeSandbox(session: Session, options: ResumeOptions): Promise<void> {
  const { record } = session;
  const { hypervisor } = await session.vm();
  await hypervisor.resume();
  for (const container of record.containers) {
    const before = container.beforePause ?? container.state;
    container.state = options.allRunning === true && before !== 'stopped' ? 'running' : before;
    container.beforePause = null;
  }
  record.state = 'running';
  await session.save();
}

/** Containers whose shims have gone unnoticed are stopped. */
export async function stopLost(session: Session): Promise<void> {
  for (const container of session.record.containers.filter(hasLostShim)) {
    await stopContainer(session, container, true);
  }
  await session.save();
}

async function startVm(session: Session, signal: AbortSignal | undefined): Promise<void> {
  const { record } = session;
  const { id, config } = record;
  const undo = new Undo();
  try {
    const vm = newVm(record);
    undo.add(() => forgetVm(id));
    if (endsWithProcess(record)) vm.hold = await holdVm(id);
    await vm.hypervisor.start(signal);
    undo.add(() => vm.hypervisor.stop());
    const { agentUrl, consoleUrl } = vm.hypervisor;
    const directory = directoryOf(id);
    record.proxy = await proxies[config.proxyType].start(config.proxyConfig, {
      id,
      directory,
      agentUrl,
      consoleUrl,
    });
    undo.add(() => stopProxy(record));
    await vm.agent.createSandbox({ id, hostname: config.hostname ?? id });
  } catch (error) {
    await undo.run();
    throw error;
  }
  record.state = 'ready';
  record.owner = process.pid;
}

async function stopProxy(record: SandboxRecord): Promise<void> {
  const { proxy, config, id } = record;
  record.proxy = null;
  if (proxy !== null) await proxies[config.proxyType].stop(id, proxy.pid);
}

/** All of them; where one fails, those that were started are stopped again. */
async function startContainers(session: Session): Promise<void> {
  const { record } = session;
  const undo = new Undo();
  try {
    for (const container of record.containers) {
      await startContainer(session, container);
      undo.add(() => stopContainer(session, container, true));
    }
  } catch (error) {
    await undo.run();
    throw error;
  }
  record.state = 'running';
}
