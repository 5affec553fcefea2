/** What a sandbox needs of the thing that runs its VM. */
import type { HypervisorType } from '../../config/virtcontainers/hypervisor.js';
import type { EmbervmError } from '../../errors.js';

/** A disk to put into the VM while it runs. */
export interface BlockDevice {
  /** At most 20 bytes: what the guest reads as its serial number. */
  id: string;
  path: string;
  readOnly: boolean;
}

export interface Hypervisor {
  readonly type: HypervisorType;
  /** Where the guest's agent is reached. */
  readonly agentUrl: string;
  /** Where the guest's console is to be read; `undefined` where nothing serves it. */
  readonly consoleUrl: string | undefined;
  /** Why the VM died by itself; `undefined` while it lives, and when it was stopped. */
  readonly failure: EmbervmError | undefined;
  /** Calls `onFailure` when the VM dies by itself, at once where it has; returns what ends that. */
  watch(onFailure: (failure: EmbervmError) => void): () => void;
  /** Resolves when the guest can be talked to. Nothing is left where it rejects. */
  start(signal?: AbortSignal): Promise<void>;
  /** Ends the VM, also one that has died. Idempotent. */
  stop(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Writes a snapshot of the VM to a directory. */
  save(directory: string): Promise<void>;
  /** Resolves to the path in the guest; `others` are those that came before and are still there. */
  attachBlock(device: BlockDevice, others: readonly { guestPath: string }[]): Promise<string>;
  detachBlock(id: string): Promise<void>;
  /** Adds a NIC, whose backing is `device` on the host. */
  attachInterface(device: string, hwAddr: string): Promise<void>;
  detachInterface(hwAddr: string): Promise<void>;
}
