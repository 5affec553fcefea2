/** Interfaces and routes of a sandbox. */
import type { NetworkInterface, Route } from '../../config/virtcontainers/network.js';
import { MachineError } from '../../errors.js';
import type { Session } from '../session.js';
import { Undo } from '../undo.js';

/** In the VM, then in the guest; out again where the guest cannot. */
export async function addInterface(session: Session, added: NetworkInterface): Promise<void> {
  const { record } = session;
  const known = record.interfaces.find(
    ({ hwAddr, name }) => hwAddr === added.hwAddr || name === added.name,
  );
  if (known !== undefined) {
    throw new MachineError(
      'ERR_DEVICE_EXISTS',
      `the sandbox has an interface ${known.name} with the address ${known.hwAddr} already`,
      { context: { sandbox: record.id, name: known.name, hwAddr: known.hwAddr } },
    );
  }
  const { hypervisor, agent } = await session.vm();
  const undo = new Undo();
  try {
    await hypervisor.attachInterface(added.device, added.hwAddr);
    undo.add(() => hypervisor.detachInterface(added.hwAddr));
    await agent.updateInterface(added);
  } catch (error) {
    await undo.run();
    throw error;
  }
  record.interfaces.push(added);
  await session.save();
}

/** By its address alone; `undefined` when there is none. */
export async function removeInterface(
  session: Session,
  hwAddr: string,
): Promise<NetworkInterface | undefined> {
  const { record } = session;
  const found = record.interfaces.find((candidate) => candidate.hwAddr === hwAddr);
  if (found === undefined) return undefined;
  const { hypervisor, agent } = await session.vm();
  await agent.removeInterface(found);
  await hypervisor.detachInterface(hwAddr);
  record.interfaces = record.interfaces.filter((candidate) => candidate !== found);
  record.routes = record.routes.filter(({ device }) => device !== found.name);
  await session.save();
  return found;
}

/** Those without a gateway first: the gateways of the others may be behind them. */
export async function updateRoutes(session: Session, routes: Route[]): Promise<Route[]> {
  const { agent } = await session.vm();
  const ordered = [
    ...routes.filter(({ gateway }) => gateway === ''),
    ...routes.filter(({ gateway }) => gateway !== ''),
  ];
  session.record.routes = await agent.updateRoutes(ordered);
  await session.save();
  return session.record.routes;
}
