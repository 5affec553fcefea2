/** The functions of virtcontainers: each finds the sandbox by its id and does one thing with it. */
import type { Cmd, ContainerConfig } from '../config/virtcontainers/container.js';
import { parseSandboxConfig, type SandboxConfig } from '../config/virtcontainers/sandbox.js';
import { EmbervmError } from '../errors.js';
import { generateName } from '../state/names.js';
import type { VcContainer } from './container.js';
import { needContainerId, needSandboxId, sandboxNotFound } from './errors.js';
import { handleOf, keepHandle } from './handles.js';
import * as sandboxes from './operations/sandboxes.js';
import { VcSandbox } from './sandbox.js';
import { listIds, loadRecord, withNew } from './store.js';
import type {
  CallOptions,
  ContainerStatus,
  Process,
  ProcessList,
  ProcessListOptions,
  ResumeOptions,
  SandboxStatus,
  StopSandboxOptions,
} from './types.js';

/** Starts the VM and makes the containers, which do not run yet. */
export function createSandbox(
  config: SandboxConfig,
  options: CallOptions = {},
): Promise<VcSandbox> {
  return create(config, false, options);
}

/** Creates a sandbox and starts its containers. Nothing is left where either fails. */
export function runSandbox(config: SandboxConfig, options: CallOptions = {}): Promise<VcSandbox> {
  return create(config, true, options);
}

/** The handle of a sandbox, also of one that another process has made. */
export async function fetchSandbox(id: string): Promise<VcSandbox> {
  const handle = await find(id);
  keepHandle(handle);
  return handle;
}

/** Ends the VM, if there is one, and removes everything. One that runs must be stopped before. */
export async function deleteSandbox(id: string, options: CallOptions = {}): Promise<VcSandbox> {
  const handle = await find(id);
  await handle.delete(options);
  return handle;
}

/** Starts the containers, and the VM where the sandbox was stopped. */
export function startSandbox(id: string, options: CallOptions = {}): Promise<VcSandbox> {
  return change(id, (sandbox) => sandbox.start(options));
}

/** Ends the containers and the VM. Idempotent. */
export function stopSandbox(id: string, options: StopSandboxOptions = {}): Promise<VcSandbox> {
  return change(id, (sandbox) => sandbox.stop(options));
}

export function pauseSandbox(id: string, options: CallOptions = {}): Promise<VcSandbox> {
  return change(id, (sandbox) => sandbox.pause(options));
}

export function resumeSandbox(id: string, options: ResumeOptions = {}): Promise<VcSandbox> {
  return change(id, (sandbox) => sandbox.resume(options));
}

export async function statusSandbox(id: string, options: CallOptions = {}): Promise<SandboxStatus> {
  return (await find(id)).status(options);
}

/** All sandboxes whose records can be read, oldest first. */
export async function listSandboxes(options: CallOptions = {}): Promise<SandboxStatus[]> {
  const found: { createdAt: number; status: SandboxStatus }[] = [];
  for (const id of await listIds()) {
    options.signal?.throwIfAborted();
    try {
      const record = await loadRecord(id);
      if (record === undefined) continue;
      const status = await (handleOf(id) ?? new VcSandbox(record)).status(options);
      found.push({ createdAt: record.createdAt, status });
    } catch (error) {
      // It went meanwhile, or its record was damaged: the others are to be seen.
      if (!(error instanceof EmbervmError) || error.code === 'ERR_ABORTED') throw error;
    }
  }
  return found.sort((a, b) => a.createdAt - b.createdAt).map(({ status }) => status);
}

/** The name that virtcontainers 1.0 has for {@link listSandboxes}. */
export const listSandbox: typeof listSandboxes = listSandboxes;

export async function createContainer(
  sandboxId: string,
  config: ContainerConfig,
  options: CallOptions = {},
): Promise<{ sandbox: VcSandbox; container: VcContainer }> {
  needSandboxId(sandboxId);
  needContainerId((config as ContainerConfig | undefined)?.id);
  const sandbox = await fetchSandbox(sandboxId);
  return { sandbox, container: await sandbox.createContainer(config, options) };
}

export async function deleteContainer(
  sandboxId: string,
  containerId: string,
  options: CallOptions = {},
): Promise<VcContainer> {
  return (await findFor(sandboxId, containerId)).deleteContainer(containerId, options);
}

export async function startContainer(
  sandboxId: string,
  containerId: string,
  options: CallOptions = {},
): Promise<VcContainer> {
  return (await findFor(sandboxId, containerId)).startContainer(containerId, options);
}

/** Kills what runs in it. Idempotent. */
export async function stopContainer(
  sandboxId: string,
  containerId: string,
  options: StopSandboxOptions = {},
): Promise<VcContainer> {
  return (await findFor(sandboxId, containerId)).stopContainer(containerId, options);
}

/** Runs one more process in a container. */
export async function enterContainer(
  sandboxId: string,
  containerId: string,
  cmd: Cmd,
  options: CallOptions = {},
): Promise<{ sandbox: VcSandbox; container: VcContainer; process: Process }> {
  const sandbox = await findFor(sandboxId, containerId);
  const process = await sandbox.enterContainer(containerId, cmd, options);
  return { sandbox, container: sandbox.requireContainer(containerId), process };
}

export async function statusContainer(
  sandboxId: string,
  containerId: string,
  options: CallOptions = {},
): Promise<ContainerStatus> {
  return (await findFor(sandboxId, containerId)).statusContainer(containerId, options);
}

/** A signal to the first process of a container, or with `all` to every one. */
export async function killContainer(
  sandboxId: string,
  containerId: string,
  signal: NodeJS.Signals | number,
  all = false,
  options: CallOptions = {},
): Promise<void> {
  const sandbox = await findFor(sandboxId, containerId);
  await sandbox.killContainer(containerId, signal, all, options);
}

export async function processListContainer(
  sandboxId: string,
  containerId: string,
  listOptions: ProcessListOptions,
  options: CallOptions = {},
): Promise<ProcessList> {
  const sandbox = await findFor(sandboxId, containerId);
  return sandbox.processListContainer(containerId, listOptions, options);
}

async function create(
  config: SandboxConfig,
  start: boolean,
  { signal }: CallOptions,
): Promise<VcSandbox> {
  const { id: given } = (config ?? {}) as Partial<SandboxConfig>;
  if (given !== undefined) needSandboxId(given);
  const resolved = parseSandboxConfig(config);
  const id = resolved.id ?? generateName();
  return withNew(id, signal, async () => {
    const record = sandboxes.newRecord(id, resolved);
    await sandboxes.createSandbox(record, resolved, start, signal);
    const handle = new VcSandbox(record);
    keepHandle(handle);
    return handle;
  });
}

async function change(
  id: string,
  run: (sandbox: VcSandbox) => Promise<unknown>,
): Promise<VcSandbox> {
  const handle = await fetchSandbox(id);
  await run(handle);
  return handle;
}

async function findFor(sandboxId: string, containerId: string): Promise<VcSandbox> {
  needSandboxId(sandboxId);
  needContainerId(containerId);
  return find(sandboxId);
}

/** Not kept: who asks once does not hold on to it. */
async function find(id: string): Promise<VcSandbox> {
  needSandboxId(id);
  const record = await loadRecord(id);
  if (record === undefined) throw sandboxNotFound(id);
  return handleOf(id) ?? new VcSandbox(record);
}
