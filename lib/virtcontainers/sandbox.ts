/** The handle of a sandbox of virtcontainers. */
import {
  type Cmd,
  type ContainerConfig,
  type DeviceInfo,
  parseAnnotations,
  parseCmd,
  parseContainerConfig,
  parseDeviceInfo,
} from '../config/virtcontainers/container.js';
import {
  type InterfaceConfig,
  type NetworkInterface,
  parseHwAddr,
  parseInterface,
  parseRoutes,
  type Route,
  type RouteConfig,
} from '../config/virtcontainers/network.js';
import {
  parseProcessListOptions,
  parseSignal,
  parseWindow,
} from '../config/virtcontainers/requests.js';
import { ConfigError, VirtcontainersError } from '../errors.js';
import { VcContainer } from './container.js';
import { containerNotFound, needContainerId } from './errors.js';
import { forgetHandle } from './handles.js';
import { Monitor } from './monitor.js';
import {
  createContainer,
  deleteContainer,
  hasLostShim,
  startContainer,
  stopContainer,
} from './operations/containers.js';
import { attachDevice, detachDevice } from './operations/devices.js';
import { addInterface, removeInterface, updateRoutes } from './operations/network.js';
import { enterContainer, tokenOf } from './operations/processes.js';
import {
  deleteSandbox,
  pauseSandbox,
  resumeSandbox,
  startSandbox,
  stopLost,
  stopSandbox,
} from './operations/sandboxes.js';
import type { ContainerRecord, SandboxRecord } from './record.js';
import type { LockMode } from './rw-lock.js';
import { perform, type Request, released, type Session } from './session.js';
import type { Operation, State } from './state-table.js';
import { containerStatusOf, deviceOf, statusOf } from './status.js';
import { loadRecord } from './store.js';
import type {
  CallOptions,
  ContainerStatus,
  Device,
  Process,
  ProcessList,
  ProcessListOptions,
  ProcessStreams,
  ResumeOptions,
  SandboxStatus,
  StopSandboxOptions,
} from './types.js';
import { releaseVm } from './vms.js';

/** Its synchronous members show what its last call saw; other processes may have gone on. */
export class VcSandbox implements AsyncDisposable {
  readonly id: string;
  readonly #containers = new Map<string, VcContainer>();
  #record: SandboxRecord;
  #end: 'released' | 'deleted' | undefined;

  /** @internal */
  constructor(record: SandboxRecord) {
    this.id = record.id;
    this.#record = record;
  }

  /** As the last call through this handle left or found it. */
  get state(): State {
    return this.#record.state;
  }

  /** The value of an annotation; `ERR_ANNOTATION_NOT_FOUND` without one. */
  annotations(key: string): string {
    const { annotations } = this.#record.config;
    const value = Object.hasOwn(annotations, key) ? annotations[key] : undefined;
    if (value !== undefined) return value;
    throw new VirtcontainersError(
      'ERR_ANNOTATION_NOT_FOUND',
      `the sandbox "${this.id}" has no annotation ${JSON.stringify(key)}`,
      { context: { sandbox: this.id, key } },
    );
  }

  getAnnotations(): Record<string, string> {
    return { ...this.#record.config.annotations };
  }

  /** Adds to the annotations, in place of those with the same keys. */
  async setAnnotations(
    annotations: Record<string, string>,
    options: CallOptions = {},
  ): Promise<void> {
    const added = parseAnnotations(annotations);
    await this.#change('annotations', options, async (session) => {
      Object.assign(session.record.config.annotations, added);
      await session.save();
    });
  }

  /** `undefined` when there is none of this id. */
  getContainer(id: string): VcContainer | undefined {
    if (this.#find(id) === undefined) return undefined;
    let container = this.#containers.get(id);
    if (container === undefined) {
      container = new VcContainer({
        sandbox: this,
        id,
        record: () => this.#find(id),
        setPid: (pid, options) => this.#setPid(id, pid, options),
      });
      this.#containers.set(id, container);
    }
    return container;
  }

  /** In the order in which they were created. */
  getAllContainers(): VcContainer[] {
    return this.#record.containers.map(({ config }) => this.requireContainer(config.id));
  }

  async start(options: CallOptions = {}): Promise<void> {
    await this.#change('startSandbox', options, (session) => startSandbox(session, options.signal));
  }

  /** Idempotent; also stops one whose VM has died. */
  async stop(options: StopSandboxOptions = {}): Promise<void> {
    await this.#change('stopSandbox', options, async (session) => {
      try {
        await stopSandbox(session, options.force ?? false);
      } finally {
        await session.save();
      }
    });
  }

  async pause(options: CallOptions = {}): Promise<void> {
    await this.#change('pauseSandbox', options, pauseSandbox);
  }

  async resume(options: ResumeOptions = {}): Promise<void> {
    await this.#change('resumeSandbox', options, (session) => resumeSandbox(session, options));
  }

  /**
   * Writes a snapshot of the VM to a directory, for `Machine.restore` of `embervm/machine`. Disks
   * are not part of it.
   */
  async save(directory: string, options: CallOptions = {}): Promise<void> {
    await this.#change('saveSandbox', options, async (session) => {
      await (await session.vm()).hypervisor.save(directory);
    });
  }

  /** Ends the VM, if there is one, and removes everything. Idempotent on one handle. */
  async delete(options: CallOptions = {}): Promise<void> {
    if (this.#end === 'deleted') return;
    await this.#change('deleteSandbox', options, deleteSandbox);
    this.#end = 'deleted';
    forgetHandle(this);
  }

  /** Lets go of the handle: monitors end, connections close, the sandbox goes on. Idempotent. */
  async release(): Promise<void> {
    if (this.#end !== undefined) return;
    this.#end = 'released';
    releaseVm(this.id);
    forgetHandle(this);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }

  async status(options: CallOptions = {}): Promise<SandboxStatus> {
    const status = await this.#read('statusSandbox', options, async ({ record }) =>
      record.containers.some(hasLostShim) ? undefined : statusOf(record),
    );
    if (status !== undefined) return status;
    return this.#change('statusSandbox', options, async (session) => {
      await stopLost(session);
      return statusOf(session.record);
    });
  }

  /** To be told at once when the VM dies. */
  async monitor(options: CallOptions = {}): Promise<Monitor> {
    return this.#read('monitor', options, async (session) => {
      return new Monitor(this.id, await session.vm());
    });
  }

  async createContainer(config: ContainerConfig, options: CallOptions = {}): Promise<VcContainer> {
    needContainerId((config as ContainerConfig | undefined)?.id);
    const resolved = parseContainerConfig(config);
    await this.#change('createContainer', options, async (session) => {
      await createContainer(session, resolved);
      await session.save();
    });
    return this.requireContainer(resolved.id);
  }

  /** One that never started is removed from the guest, too. */
  async deleteContainer(id: string, options: CallOptions = {}): Promise<VcContainer> {
    needContainerId(id);
    const gone = await this.#changeContainer(
      'deleteContainer',
      id,
      options,
      async (session, record) => {
        this.#record = session.record;
        const container = this.requireContainer(id).see();
        await deleteContainer(session, record);
        await session.save();
        return container;
      },
    );
    this.#containers.delete(id);
    return gone;
  }

  async startContainer(id: string, options: CallOptions = {}): Promise<VcContainer> {
    await this.#changeContainer('startContainer', id, options, async (session, container) => {
      try {
        await startContainer(session, container);
      } finally {
        await session.save();
      }
    });
    return this.requireContainer(id);
  }

  /** Kills what runs in it. Idempotent. */
  async stopContainer(id: string, options: StopSandboxOptions = {}): Promise<VcContainer> {
    await this.#changeContainer('stopContainer', id, options, async (session, container) => {
      await stopContainer(session, container, options.force ?? false);
      await session.save();
    });
    return this.requireContainer(id);
  }

  async statusContainer(id: string, options: CallOptions = {}): Promise<ContainerStatus> {
    needContainerId(id);
    const status = await this.#perform({
      operation: 'statusContainer',
      mode: 'read',
      containerId: id,
      options,
      work: async (_session, container) =>
        hasLostShim(container) ? undefined : containerStatusOf(container),
    });
    if (status !== undefined) return status;
    return this.#changeContainer('statusContainer', id, options, async (session, container) => {
      await stopLost(session);
      return containerStatusOf(container);
    });
  }

  /** Runs one more process in it. */
  async enterContainer(id: string, cmd: Cmd, options: CallOptions = {}): Promise<Process> {
    needContainerId(id);
    const resolved = parseCmd(cmd);
    return this.#readContainer('enterContainer', id, options, (session, container) =>
      enterContainer(session, container, resolved),
    );
  }

  /** A signal to the first process of a container, or with `all` to every one. */
  async killContainer(
    id: string,
    signal: NodeJS.Signals | number,
    all = false,
    options: CallOptions = {},
  ): Promise<void> {
    await this.#signal('killContainer', id, id, signal, all, options);
  }

  async processListContainer(
    id: string,
    listOptions: ProcessListOptions,
    options: CallOptions = {},
  ): Promise<ProcessList> {
    needContainerId(id);
    const resolved = parseProcessListOptions(listOptions);
    return this.#readContainer('processListContainer', id, options, async (session) =>
      (await session.vm()).agent.listProcesses(id, resolved),
    );
  }

  /** Resolves with its exit code; `processId` is a token, or empty for the container's first. */
  async waitProcess(id: string, processId: string, options: CallOptions = {}): Promise<number> {
    const agent = await this.#readContainer('waitProcess', id, options, async (session) => {
      return (await session.vm()).agent;
    });
    // Not under the lock: it may take as long as the process does.
    return agent.waitProcess(id, tokenOf(id, processId), options.signal);
  }

  async signalProcess(
    id: string,
    processId: string,
    signal: NodeJS.Signals | number,
    all = false,
    options: CallOptions = {},
  ): Promise<void> {
    await this.#signal('signalProcess', id, processId, signal, all, options);
  }

  async winsizeProcess(
    id: string,
    processId: string,
    height: number,
    width: number,
    options: CallOptions = {},
  ): Promise<void> {
    needContainerId(id);
    const window = parseWindow(height, width);
    await this.#readContainer('winsizeProcess', id, options, async (session) => {
      const { agent } = await session.vm();
      await agent.winsizeProcess(id, tokenOf(id, processId), window.height, window.width);
    });
  }

  async ioStream(
    id: string,
    processId: string,
    options: CallOptions = {},
  ): Promise<ProcessStreams> {
    return this.#readContainer('ioStream', id, options, async (session) => {
      return (await session.vm()).agent.ioStream(id, tokenOf(id, processId));
    });
  }

  /** Puts a disk into the VM; one that is there is counted once more. */
  async addDevice(info: DeviceInfo, options: CallOptions = {}): Promise<Device> {
    const resolved = parseDeviceInfo(info);
    return this.#change('addDevice', options, async (session) => {
      const device = await attachDevice(session, resolved);
      await session.save();
      return deviceOf(device);
    });
  }

  /** Takes it out of the VM when all who added it have removed it. */
  async removeDevice(id: string, options: CallOptions = {}): Promise<void> {
    await this.#change('removeDevice', options, async (session) => {
      await detachDevice(session, id);
      await session.save();
    });
  }

  async addInterface(
    config: InterfaceConfig,
    options: CallOptions = {},
  ): Promise<NetworkInterface> {
    const added = parseInterface(config);
    await this.#change('addInterface', options, (session) => addInterface(session, added));
    return added;
  }

  /** The one with this `hwAddr`; `undefined` when there is none. */
  async removeInterface(
    config: Pick<InterfaceConfig, 'hwAddr'>,
    options: CallOptions = {},
  ): Promise<NetworkInterface | undefined> {
    const hwAddr = parseHwAddr((config as Partial<InterfaceConfig> | undefined)?.hwAddr);
    return this.#change('removeInterface', options, (session) => removeInterface(session, hwAddr));
  }

  async listInterfaces(options: CallOptions = {}): Promise<NetworkInterface[]> {
    return this.#read('listInterfaces', options, async (session) => {
      const { agent } = await session.vm();
      return (await agent.listInterfaces()) ?? structuredClone(session.record.interfaces);
    });
  }

  /** All routes that the guest is to have; resolves with those that it has. */
  async updateRoutes(routes: RouteConfig[], options: CallOptions = {}): Promise<Route[]> {
    const resolved = parseRoutes(routes);
    return this.#change('updateRoutes', options, (session) => updateRoutes(session, resolved));
  }

  async listRoutes(options: CallOptions = {}): Promise<Route[]> {
    return this.#read('listRoutes', options, async (session) => {
      const { agent } = await session.vm();
      return (await agent.listRoutes()) ?? structuredClone(session.record.routes);
    });
  }

  async #signal(
    operation: 'killContainer' | 'signalProcess',
    id: string,
    processId: string,
    signal: NodeJS.Signals | number,
    all: boolean,
    options: CallOptions,
  ): Promise<void> {
    needContainerId(id);
    const number = parseSignal(signal);
    await this.#readContainer(operation, id, options, async (session) => {
      const { agent } = await session.vm();
      await agent.signalProcess(id, tokenOf(id, processId), number, all);
    });
  }

  async #setPid(id: string, pid: number, options: CallOptions): Promise<void> {
    if (!Number.isSafeInteger(pid)) {
      throw new ConfigError('ERR_INVALID_CONFIG', `the pid must be an integer, not ${pid}`, {
        context: { option: 'pid' },
      });
    }
    await this.#change('annotations', options, async (session) => {
      session.container(id).process.pid = pid;
      await session.save();
    });
  }

  #find(id: string): ContainerRecord | undefined {
    return this.#record.containers.find(({ config }) => config.id === id);
  }

  /** @internal One that must be there. */
  requireContainer(id: string): VcContainer {
    const container = this.getContainer(id);
    if (container === undefined) throw containerNotFound(this.id, id);
    return container;
  }

  #change<Value>(
    operation: Operation,
    options: CallOptions,
    work: (session: Session) => Promise<Value>,
  ): Promise<Value> {
    return this.#perform({ operation, mode: 'write', options, work });
  }

  #changeContainer<Value>(
    operation: Operation,
    containerId: string,
    options: CallOptions,
    work: Request<Value>['work'],
  ): Promise<Value> {
    return this.#perform({ operation, mode: 'write', containerId, options, work });
  }

  #read<Value>(
    operation: Operation,
    options: CallOptions,
    work: (session: Session) => Promise<Value>,
  ): Promise<Value> {
    return this.#perform({ operation, mode: 'read', options, work });
  }

  #readContainer<Value>(
    operation: Operation,
    containerId: string,
    options: CallOptions,
    work: Request<Value>['work'],
  ): Promise<Value> {
    return this.#perform({ operation, mode: 'read', containerId, options, work });
  }

  async #perform<Value>(request: {
    operation: Operation;
    mode: LockMode;
    containerId?: string;
    options: CallOptions;
    work: Request<Value>['work'];
  }): Promise<Value> {
    if (this.#end === 'released') throw released(this.id, request.operation);
    try {
      const { value, record } = await perform({ id: this.id, ...request });
      this.#record = record;
      return value;
    } catch (error) {
      this.#record = (await loadRecord(this.id).catch(() => undefined)) ?? this.#record;
      throw error;
    }
  }
}
