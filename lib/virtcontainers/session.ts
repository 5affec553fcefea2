/** One operation on a sandbox: under its lock, in a state that allows it, on a draft of its record. */
import { VirtcontainersError } from '../errors.js';
import { containerNotFound, needContainerId } from './errors.js';
import type { ContainerRecord, SandboxRecord } from './record.js';
import type { LockMode } from './rw-lock.js';
import { checkState, type Operation } from './state-table.js';
import { saveRecord, withExisting } from './store.js';
import type { CallOptions } from './types.js';
import { settle, type Vm, vmHere, vmOf } from './vms.js';

/** What is of use when the VM has died, too. */
const withoutVm: ReadonlySet<Operation> = new Set<Operation>([
  'stopSandbox',
  'deleteSandbox',
  'statusSandbox',
  'annotations',
  'stopContainer',
  'deleteContainer',
  'statusContainer',
]);

export class Session {
  readonly record: SandboxRecord;

  constructor(record: SandboxRecord) {
    this.record = record;
  }

  get id(): string {
    return this.record.id;
  }

  vm(): Promise<Vm> {
    return vmOf(this.record);
  }

  /** The VM has died by itself. */
  get isDead(): boolean {
    return vmHere(this.id)?.hypervisor.failure !== undefined;
  }

  container(id: string): ContainerRecord {
    const found = this.record.containers.find(({ config }) => config.id === id);
    if (found === undefined) throw containerNotFound(this.id, id);
    return found;
  }

  save(): Promise<void> {
    return saveRecord(this.record);
  }
}

export interface Request<Value> {
  id: string;
  operation: Operation;
  mode: LockMode;
  /** The operation is about a container. */
  containerId?: string | undefined;
  options?: CallOptions | undefined;
  /** In a state where there is nothing to do: default `undefined`. */
  done?: ((session: Session) => Value | Promise<Value>) | undefined;
  work: (session: Session, container: ContainerRecord) => Promise<Value>;
}

/** Runs `work` where the state table lets it, and answers with the record as it is then. */
export async function perform<Value>(
  request: Request<Value>,
): Promise<{ value: Value; record: SandboxRecord }> {
  const { id, operation, mode, containerId, options = {}, work, done } = request;
  if (containerId !== undefined) needContainerId(containerId);
  return withExisting(id, mode, options.signal, async (record) => {
    await settle(record);
    const session = new Session(record);
    const container = containerId === undefined ? undefined : session.container(containerId);
    const verdict = checkState(operation, {
      sandbox: { id, state: record.state },
      container: container && { id: container.config.id, state: container.state },
    });
    if (verdict === 'done' && done !== undefined) return { value: await done(session), record };
    if (verdict === 'done') return { value: undefined as Value, record };
    requireVm(session, operation);
    // Only operations with the id of a container look at it.
    return { value: await work(session, container as ContainerRecord), record };
  });
}

function requireVm(session: Session, operation: Operation): void {
  if (withoutVm.has(operation) || session.record.state === 'stopped') return;
  const failure = vmHere(session.id)?.hypervisor.failure;
  if (failure !== undefined) throw failure;
}

/** A handle that was let go. */
export function released(id: string, operation: string): VirtcontainersError {
  return new VirtcontainersError(
    'ERR_INVALID_STATE',
    `${operation}: this handle of the sandbox "${id}" was released. Fetch another`,
    { context: { operation, subject: 'handle', state: 'released', sandbox: id } },
  );
}
