import { beforeEach, describe, expect, test } from 'vitest';
import { VirtcontainersError } from '../../lib/errors.js';
import { createSandbox, type VcSandbox } from '../../lib/virtcontainers/index.js';
import {
  checkState,
  type Operation,
  type State,
  states,
  stateTable,
} from '../../lib/virtcontainers/state-table.js';
import { useFreshHome } from '../helpers/home.js';
import { rejection, thrown } from '../helpers/rejection.js';

/**
 * Cells in the order ready, running, paused, stopped: of the sandbox, and of the container where
 * the operation is about one. `+` allowed, `=` there is nothing to do, `-` refused.
 */
const cells: Record<Operation, string> = {
  startSandbox: '+--+',
  stopSandbox: '+++=',
  deleteSandbox: '+-++',
  pauseSandbox: '-+--',
  resumeSandbox: '--+-',
  saveSandbox: '-++-',
  statusSandbox: '++++',
  monitor: '-+--',
  annotations: '++++',
  createContainer: '++--',
  startContainer: '-+-- +--+',
  stopContainer: '++-- +++=',
  deleteContainer: '++-+ +--+',
  statusContainer: '++++ ++++',
  enterContainer: '-+-- ++--',
  killContainer: '++-- +++-',
  processListContainer: '-+-- -+--',
  waitProcess: '-+-- ++--',
  signalProcess: '-+-- +++-',
  winsizeProcess: '-+-- ++--',
  ioStream: '-+-- ++--',
  addDevice: '++--',
  removeDevice: '++--',
  addInterface: '++--',
  removeInterface: '++--',
  listInterfaces: '++--',
  updateRoutes: '++--',
  listRoutes: '++--',
};

function verdict(operation: Operation, sandbox: State, container?: State): string {
  const subject = {
    sandbox: { id: 's', state: sandbox },
    container: container === undefined ? undefined : { id: 'c', state: container },
  };
  try {
    return checkState(operation, subject) === 'go' ? '+' : '=';
  } catch (error) {
    expect(error).toBeInstanceOf(VirtcontainersError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_STATE', context: { operation } });
    return '-';
  }
}

function expected(operation: Operation, sandbox: State, container?: State): string {
  const [ofSandbox = '', ofContainer] = cells[operation].split(' ');
  const first = ofSandbox[states.indexOf(sandbox)] ?? '';
  if (container === undefined || ofContainer === undefined) return first;
  const second = ofContainer[states.indexOf(container)] ?? '';
  if (second === '=') return '=';
  return first === '+' ? second : first;
}

test('the table has each operation, and the cells are all of them', () => {
  expect(Object.keys(stateTable)).toEqual(Object.keys(cells));
});

describe.each(Object.keys(cells) as Operation[])('%s', (operation) => {
  const ofContainer = cells[operation].includes(' ');
  const pairs = states.flatMap((sandbox): [State, State | undefined][] =>
    ofContainer ? states.map((container) => [sandbox, container]) : [[sandbox, undefined]],
  );
  test.each(pairs)('sandbox %s, container %s', (sandbox, container) => {
    expect(verdict(operation, sandbox, container)).toBe(expected(operation, sandbox, container));
  });
});

test('the refusal names operation, subject, state and what is expected', () => {
  const subject = {
    sandbox: { id: 's', state: 'running' as const },
    container: { id: 'c', state: 'paused' as const },
  };
  expect(thrown(() => checkState('enterContainer', subject))).toMatchObject({
    message: 'enterContainer: the container "c" is paused, but must be ready or running',
    context: {
      operation: 'enterContainer',
      subject: 'container',
      state: 'paused',
      expected: 'ready running',
      sandbox: 's',
      container: 'c',
    },
  });
});

describe('the functions keep to the table', () => {
  useFreshHome();
  let sandbox: VcSandbox;

  const calls: Record<Operation, () => Promise<unknown>> = {
    startSandbox: () => sandbox.start(),
    stopSandbox: () => sandbox.stop(),
    deleteSandbox: () => sandbox.delete(),
    pauseSandbox: () => sandbox.pause(),
    resumeSandbox: () => sandbox.resume(),
    saveSandbox: () => sandbox.save('/nowhere'),
    statusSandbox: () => sandbox.status(),
    monitor: async () => (await sandbox.monitor()).close(),
    annotations: () => sandbox.setAnnotations({ a: 'b' }),
    createContainer: () => sandbox.createContainer({ id: 'another' }),
    startContainer: () => sandbox.startContainer('c'),
    stopContainer: () => sandbox.stopContainer('c'),
    deleteContainer: () => sandbox.deleteContainer('c'),
    statusContainer: () => sandbox.statusContainer('c'),
    enterContainer: () => sandbox.enterContainer('c', { args: ['true'] }),
    killContainer: () => sandbox.killContainer('c', 'SIGTERM'),
    processListContainer: () => sandbox.processListContainer('c', { format: 'json' }),
    waitProcess: () => sandbox.waitProcess('c', ''),
    signalProcess: () => sandbox.signalProcess('c', '', 9),
    winsizeProcess: () => sandbox.winsizeProcess('c', '', 24, 80),
    ioStream: () => sandbox.ioStream('c', ''),
    addDevice: () => sandbox.addDevice({ hostPath: '/disk', containerPath: '/dev/x' }),
    removeDevice: () => sandbox.removeDevice('drive-0'),
    addInterface: () =>
      sandbox.addInterface({
        device: 'tap0',
        name: 'eth0',
        hwAddr: '02:00:00:00:00:01',
        linkType: 'tap',
      }),
    removeInterface: () => sandbox.removeInterface({ hwAddr: '02:00:00:00:00:01' }),
    listInterfaces: () => sandbox.listInterfaces(),
    updateRoutes: () => sandbox.updateRoutes([]),
    listRoutes: () => sandbox.listRoutes(),
  };

  beforeEach(async () => {
    sandbox = await createSandbox({
      id: 'states',
      hypervisorType: 'mock',
      containers: [{ id: 'c' }],
    });
  });

  async function bring(state: State): Promise<void> {
    if (state === 'ready') return;
    await sandbox.start();
    if (state === 'paused') await sandbox.pause();
    if (state === 'stopped') await sandbox.stop();
    expect(sandbox.state).toBe(state);
  }

  /** Of the only container, in a sandbox of this state. */
  const containerIn: Record<State, State> = {
    ready: 'ready',
    running: 'running',
    paused: 'paused',
    stopped: 'stopped',
  };

  const rows = (Object.keys(calls) as Operation[]).flatMap((operation) =>
    states.map((state) => [operation, state] as const),
  );
  test.each(rows)('%s when %s', async (operation, state) => {
    await bring(state);
    const container = cells[operation].includes(' ') ? containerIn[state] : undefined;
    const allowed = expected(operation, state, container) !== '-';
    const failure = await calls[operation]().then(
      () => undefined,
      (error: { code?: string }) => error.code,
    );
    if (!allowed) expect(failure).toBe('ERR_INVALID_STATE');
    // What is allowed may still not be there.
    else expect([undefined, 'ERR_DEVICE_NOT_FOUND', 'ERR_UNSUPPORTED']).toContain(failure);
    const { to } = stateTable[operation];
    if (allowed && to !== undefined && container === undefined && operation !== 'createContainer') {
      expect(sandbox.state).toBe(to);
    }
    if (allowed && to !== undefined && container !== undefined) {
      expect(sandbox.getContainer('c')?.state).toBe(to);
    }
    if (!allowed) expect((await sandbox.status()).state).toBe(state);
  });

  test('a container that runs is not started or deleted', async () => {
    await sandbox.start();
    expect(await rejection(sandbox.startContainer('c'))).toMatchObject({
      code: 'ERR_INVALID_STATE',
      context: { subject: 'container', state: 'running' },
    });
    expect((await rejection(sandbox.deleteContainer('c'))).code).toBe('ERR_INVALID_STATE');
    await sandbox.stopContainer('c');
    await sandbox.deleteContainer('c');
    expect(sandbox.getAllContainers()).toEqual([]);
  });
});
