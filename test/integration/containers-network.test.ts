import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { message } from '../../lib/rpc/container-client.js';
import {
  AddARPNeighborsRequest,
  ARPNeighbors,
  Interfaces,
  ListInterfacesRequest,
  ListRoutesRequest,
  Routes,
  UpdateInterfaceRequest,
  UpdateRoutesRequest,
} from '../../lib/rpc/gen/kata_agent_pb.js';
import {
  ARPNeighbor,
  Interface,
  IPAddress,
  IPFamily,
  Route,
} from '../../lib/rpc/gen/kata_types_pb.js';
import { shell } from '../helpers/agent-guest.js';
import { CALL_TIMEOUT_MS, ContainerGuest } from '../helpers/container-guest.js';
import { BOOT_TIMEOUT_MS, describeGuest } from '../helpers/guest.js';
import { rejection } from '../helpers/rejection.js';

const TIMEOUT_MS = CALL_TIMEOUT_MS;
const FIRST = '02:00:00:00:00:01';
const SECOND = '02:00:00:00:00:02';
const LINK_SCOPE = 253;

const address = (text: string): IPAddress => {
  const [ip = '', mask = ''] = text.split('/');
  const family = ip.includes(':') ? IPFamily.v6 : IPFamily.v4;
  return message(IPAddress, { family, address: ip, mask });
};

describeGuest('the network of the guest', () => {
  let directory = '';
  let box: ContainerGuest;

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'embervm-network-'));
    box = await ContainerGuest.boot(directory);
    for (const [name, hardware] of Object.entries({ first: FIRST, second: SECOND })) {
      await shell(box.guest, `busybox ip link add ${name} address ${hardware} type dummy`);
    }
  }, BOOT_TIMEOUT_MS);

  afterAll(async () => {
    await box?.close();
    await rm(directory, { recursive: true, force: true });
  });

  const update = (fields: Partial<Interface>): Promise<Interface> => {
    const wanted = message(Interface, fields);
    return box.call('UpdateInterface', [UpdateInterfaceRequest, { interface: wanted }], Interface);
  };

  const find = async (hwAddr: string): Promise<Interface | undefined> => {
    const all = await box.call('ListInterfaces', [ListInterfacesRequest, {}], Interfaces);
    return all.Interfaces.find((each) => each.hwAddr === hwAddr);
  };

  // Without the one that the kernel gives it.
  const addressesOf = (each?: Interface): string[] =>
    (each?.IPAddresses ?? [])
      .map((own) => `${own.address}/${own.mask}`)
      .filter((text) => !text.startsWith('fe80:'))
      .sort();

  const route = (fields: Partial<Route>): Promise<Routes> => setRoutes([fields]);

  const setRoutes = (list: Partial<Route>[]): Promise<Routes> => {
    const routes = message(Routes, { Routes: list.map((fields) => message(Route, fields)) });
    return box.call('UpdateRoutes', [UpdateRoutesRequest, { routes }], Routes);
  };

  const neighbor = (fields: Partial<ARPNeighbor>): Promise<object> => {
    const neighbors = message(ARPNeighbors, { ARPNeighbors: [message(ARPNeighbor, fields)] });
    return box.empty('AddARPNeighbors', AddARPNeighborsRequest, { neighbors });
  };

  test(
    'an interface is found by its hardware address, and is as it is told to be',
    async () => {
      const before = await find(FIRST);
      expect(before).toMatchObject({ name: 'first', IPAddresses: [] });
      const IPAddresses = [address('10.1.0.2/24'), address('fd00::2/64')];
      const answer = await update({ hwAddr: FIRST, name: 'eth0', mtu: 1400n, IPAddresses });
      expect(answer.name).toBe('eth0');
      const after = await find(FIRST);
      expect(after).toMatchObject({ name: 'eth0', mtu: 1400n });
      expect(addressesOf(after)).toEqual(['10.1.0.2/24', 'fd00::2/64']);
      expect((after?.rawFlags ?? 0) & 1).toBe(1);
      // It is up now, and what it had goes.
      const next = [address('10.1.0.3/24'), address('fd00::2/64')];
      await update({ hwAddr: FIRST, name: 'eth1', IPAddresses: next });
      const last = await find(FIRST);
      expect(last).toMatchObject({ name: 'eth1', mtu: 1400n });
      expect(addressesOf(last)).toEqual(['10.1.0.3/24', 'fd00::2/64']);
      expect(await shell(box.guest, 'busybox ip -4 addr show eth1')).toContain('10.1.0.3/24');
    },
    TIMEOUT_MS,
  );

  test(
    'an interface that is not there, or not to be had like that, stays as it is',
    async () => {
      const hwAddr = SECOND;
      expect(await rejection(update({ hwAddr: '02:00:00:00:00:03' }))).toMatchObject({ status: 3 });
      expect(await rejection(update({ hwAddr: '0x:00:00:00:00:03' }))).toMatchObject({ status: 3 });
      expect(await rejection(update({ hwAddr, name: 'eth1' }))).toMatchObject({ status: 6 });
      expect(await rejection(update({ hwAddr, name: 'a/b' }))).toMatchObject({ status: 3 });
      expect(await rejection(update({ hwAddr, name: 'a'.repeat(16) }))).toMatchObject({
        status: 3,
      });
      for (const wrong of ['10.0.0.1/33', '10.0.0/8', 'fd00::1/129', '10.0.0.1/', '::x/64']) {
        const refused = update({ hwAddr, name: 'no', IPAddresses: [address(wrong)] });
        expect(await rejection(refused), wrong).toMatchObject({ status: 3 });
      }
      expect(await find(SECOND)).toMatchObject({ name: 'second', IPAddresses: [] });
      const none = box.call('UpdateInterface', [UpdateInterfaceRequest, {}], Interface);
      expect(await rejection(none)).toMatchObject({ status: 3 });
    },
    TIMEOUT_MS,
  );

  test(
    'routes are added and changed, those that others need first',
    async () => {
      const device = 'eth1';
      const v6 = IPFamily.v6;
      const { Routes: now } = await setRoutes([
        { device, gateway: '10.9.0.1' },
        { device, dest: '10.9.0.7/16', scope: LINK_SCOPE, source: '10.1.0.3', mtu: 1300 },
        { device, dest: 'fd01::/64', gateway: 'fd00::1', family: v6 },
      ]);
      const known = now.map(({ dest, gateway }) => `${dest} ${gateway}`);
      const three = [' 10.9.0.1', '10.9.0.0/16 ', 'fd01::/64 fd00::1'];
      expect(known).toEqual(expect.arrayContaining(three));
      const local = now.find(({ dest }) => dest === '10.9.0.0/16');
      expect(local).toMatchObject({ device, scope: LINK_SCOPE, source: '10.1.0.3', mtu: 1300 });
      expect(now.find(({ dest }) => dest === 'fd01::/64')).toMatchObject({ family: v6, device });
      // The kernel's own are not among them.
      expect(now.some(({ dest }) => dest === '10.1.0.0/24')).toBe(false);
      await route({ device, gateway: '10.1.0.1' });
      const list = await box.call('ListRoutes', [ListRoutesRequest, {}], Routes);
      const ways = list.Routes.filter(({ dest, family }) => dest === '' && family === IPFamily.v4);
      expect(ways.map(({ gateway }) => gateway)).toEqual(['10.1.0.1']);
      expect(await shell(box.guest, 'busybox ip route')).toContain('default via 10.1.0.1 dev eth1');
    },
    TIMEOUT_MS,
  );

  test(
    'routes that are none are refused before any is set',
    async () => {
      const good = { device: 'eth1', dest: '10.20.0.0/16', scope: LINK_SCOPE };
      const wrong: Partial<Route>[] = [
        { device: 'nowhere', dest: '10.0.0.0/8' },
        { device: 'eth1', dest: '10.0.0.0/33' },
        { device: 'eth1', dest: 'fd00::/64' },
        { device: 'eth1', gateway: 'here' },
        { device: 'eth1', dest: '10.0.0.0/8', source: '1.2.3' },
        { device: 'eth1', dest: '10.0.0.0/8', scope: 256 },
      ];
      for (const each of wrong) {
        const refused = await rejection(setRoutes([good, each]));
        expect(refused, JSON.stringify(each)).toMatchObject({ status: 3 });
      }
      expect(await shell(box.guest, 'busybox ip route')).not.toContain('10.20.0.0');
      // The kernel knows best: no interface has such a source.
      expect(await rejection(route({ ...good, source: '1.2.3.4' }))).toMatchObject({ status: 3 });
    },
    TIMEOUT_MS,
  );

  test(
    'neighbours are known for good',
    async () => {
      const toIPAddress = address('10.1.0.9/');
      await neighbor({ toIPAddress, device: 'eth1', lladdr: SECOND });
      await neighbor({ toIPAddress, device: 'eth1', lladdr: '0A:00:00:00:00:0b' });
      const known = await shell(box.guest, 'busybox ip neigh');
      expect(known).toMatch(/10\.1\.0\.9 dev eth1 lladdr 0a:00:00:00:00:0b .*PERMANENT/);
      const wrong = [
        { device: 'eth1', lladdr: SECOND },
        { toIPAddress, device: 'nowhere', lladdr: SECOND },
        { toIPAddress, device: 'eth1', lladdr: '0a:00:00:00:00' },
        { toIPAddress, device: 'eth1', lladdr: SECOND, state: 256 },
      ];
      for (const each of wrong) {
        expect(await rejection(neighbor(each))).toMatchObject({ status: 3 });
      }
    },
    TIMEOUT_MS,
  );
});
