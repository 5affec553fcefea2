/** Records as callers see them. */
import type { ContainerRecord, DeviceRecord, SandboxRecord } from './record.js';
import type { ContainerStatus, Device, SandboxStatus } from './types.js';

export function statusOf({ id, state, config, containers }: SandboxRecord): SandboxStatus {
  return {
    id,
    state,
    hypervisor: config.hypervisorType,
    hypervisorConfig: structuredClone(config.hypervisorConfig),
    agent: config.agentType,
    containersStatus: containers.map(containerStatusOf),
    annotations: { ...config.annotations },
  };
}

export function containerStatusOf({ config, state, process }: ContainerRecord): ContainerStatus {
  return {
    id: config.id,
    state,
    pid: process.pid,
    startTime: new Date(process.startTime),
    rootFs: config.rootFs,
    annotations: { ...config.annotations },
  };
}

export function deviceOf({ id, info, guestPath, references }: DeviceRecord): Device {
  return { id, info: { ...info, hotplugged: true, id }, guestPath, references };
}
