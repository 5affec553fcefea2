/** `embervm/virtcontainers`: virtcontainers 1.0 and the Kata API design over the built-in VMM. */
export type {
  Cmd,
  ContainerConfig,
  DeviceInfo,
  EnvVar,
  LinuxCapabilities,
  Mount,
} from '../config/virtcontainers/container.js';
export type {
  HypervisorConfig,
  HypervisorType,
  Param,
} from '../config/virtcontainers/hypervisor.js';
export type {
  InterfaceConfig,
  IpAddress,
  NetworkInterface,
  Route,
  RouteConfig,
} from '../config/virtcontainers/network.js';
export type {
  AgentConfig,
  AgentType,
  NetInterworkingModel,
  NetworkConfig,
  ProxyConfig,
  ProxyType,
  ShimConfig,
  ShimType,
} from '../config/virtcontainers/parts.js';
export type {
  Hook,
  Hooks,
  Resources,
  SandboxConfig,
  Volume,
} from '../config/virtcontainers/sandbox.js';
export {
  ConfigError,
  EmbervmError,
  type ErrorCode,
  HostError,
  MachineError,
  SandboxError,
  VirtcontainersError,
} from '../errors.js';
export { type StorageName, setStorage } from '../state/storage/choice.js';
export type { JsonValue, Storage } from '../state/storage/storage.js';
export {
  createContainer,
  createSandbox,
  deleteContainer,
  deleteSandbox,
  enterContainer,
  fetchSandbox,
  killContainer,
  listSandbox,
  listSandboxes,
  pauseSandbox,
  processListContainer,
  resumeSandbox,
  runSandbox,
  startContainer,
  startSandbox,
  statusContainer,
  statusSandbox,
  stopContainer,
  stopSandbox,
} from './api.js';
export type { VcContainer } from './container.js';
export type { Monitor } from './monitor.js';
export type { VcSandbox } from './sandbox.js';
export type { Operation, Rule, State } from './state-table.js';
export { stateTable } from './state-table.js';
export type {
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
export { crashMock } from './vms.js';
