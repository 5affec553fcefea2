/**
 * What is allowed when: the one table of states and operations. An operation that is `done` in a
 * state does nothing there; in a state that it does not name, it is `ERR_INVALID_STATE`.
 */
import { VirtcontainersError } from '../errors.js';

/** Of a sandbox, and of a container. */
export type State = 'ready' | 'running' | 'paused' | 'stopped';

export const states: readonly State[] = ['ready', 'running', 'paused', 'stopped'];

export interface Rule {
  /** States of the sandbox in which it is allowed. */
  readonly sandbox: readonly State[];
  /** States of the container, where it is about one. */
  readonly container?: readonly State[];
  /** States of the container, or else of the sandbox, in which there is nothing to do. */
  readonly done?: readonly State[];
  /** The state that the container, or else the sandbox, has afterwards. */
  readonly to?: State;
}

const always = states;
/** The VM is up, and its CPUs run. */
const up: readonly State[] = ['ready', 'running'];
const live: readonly State[] = ['running'];

/** Functions of the package and methods of a sandbox, by their names. */
export type Operation =
  | 'startSandbox'
  | 'stopSandbox'
  | 'deleteSandbox'
  | 'pauseSandbox'
  | 'resumeSandbox'
  | 'saveSandbox'
  | 'statusSandbox'
  | 'monitor'
  | 'annotations'
  | 'createContainer'
  | 'startContainer'
  | 'stopContainer'
  | 'deleteContainer'
  | 'statusContainer'
  | 'enterContainer'
  | 'killContainer'
  | 'processListContainer'
  | 'waitProcess'
  | 'signalProcess'
  | 'winsizeProcess'
  | 'ioStream'
  | 'addDevice'
  | 'removeDevice'
  | 'addInterface'
  | 'removeInterface'
  | 'listInterfaces'
  | 'updateRoutes'
  | 'listRoutes';

export const stateTable: Readonly<Record<Operation, Rule>> = {
  startSandbox: { sandbox: ['ready', 'stopped'], to: 'running' },
  stopSandbox: { sandbox: always, done: ['stopped'], to: 'stopped' },
  deleteSandbox: { sandbox: ['ready', 'paused', 'stopped'] },
  pauseSandbox: { sandbox: live, to: 'paused' },
  resumeSandbox: { sandbox: ['paused'], to: 'running' },
  saveSandbox: { sandbox: ['running', 'paused'] },
  statusSandbox: { sandbox: always },
  monitor: { sandbox: live },
  annotations: { sandbox: always },
  createContainer: { sandbox: up, to: 'ready' },
  startContainer: { sandbox: live, container: ['ready', 'stopped'], to: 'running' },
  stopContainer: { sandbox: up, container: always, done: ['stopped'], to: 'stopped' },
  deleteContainer: { sandbox: ['ready', 'running', 'stopped'], container: ['ready', 'stopped'] },
  statusContainer: { sandbox: always, container: always },
  enterContainer: { sandbox: live, container: ['ready', 'running'] },
  killContainer: { sandbox: up, container: ['ready', 'running', 'paused'] },
  processListContainer: { sandbox: live, container: ['running'] },
  waitProcess: { sandbox: live, container: ['ready', 'running'] },
  signalProcess: { sandbox: live, container: ['ready', 'running', 'paused'] },
  winsizeProcess: { sandbox: live, container: ['ready', 'running'] },
  ioStream: { sandbox: live, container: ['ready', 'running'] },
  addDevice: { sandbox: up },
  removeDevice: { sandbox: up },
  addInterface: { sandbox: up },
  removeInterface: { sandbox: up },
  listInterfaces: { sandbox: up },
  updateRoutes: { sandbox: up },
  listRoutes: { sandbox: up },
};

/** What is looked at. */
export interface Subject {
  sandbox: { id: string; state: State };
  container?: { id: string; state: State } | undefined;
}

/** `go`, or `done` where there is nothing to do, or throws. */
export function checkState(operation: Operation, subject: Subject): 'go' | 'done' {
  const rule = stateTable[operation];
  const { sandbox, container } = subject;
  const last = container ?? sandbox;
  if (rule.done?.includes(last.state)) return 'done';
  if (!rule.sandbox.includes(sandbox.state)) throw refusal(operation, subject, rule.sandbox);
  if (container !== undefined && rule.container?.includes(container.state) === false) {
    throw refusal(operation, subject, rule.container, container);
  }
  return 'go';
}

function refusal(
  operation: Operation,
  { sandbox, container }: Subject,
  expected: readonly State[],
  culprit?: { id: string; state: State },
): VirtcontainersError {
  const subject = culprit === undefined ? 'sandbox' : 'container';
  const { id, state } = culprit ?? sandbox;
  return new VirtcontainersError(
    'ERR_INVALID_STATE',
    `${operation}: the ${subject} "${id}" is ${state}, but must be ${expected.join(' or ')}`,
    {
      context: {
        operation,
        subject,
        state,
        expected: expected.join(' '),
        sandbox: sandbox.id,
        ...(container === undefined ? {} : { container: container.id }),
      },
    },
  );
}
