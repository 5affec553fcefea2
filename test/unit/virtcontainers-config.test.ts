import { describe, expect, test } from 'vitest';
import { parseCmd, parseContainerConfig } from '../../lib/config/virtcontainers/container.js';
import { refusedHypervisorOptions } from '../../lib/config/virtcontainers/hypervisor.js';
import { parseInterface, parseRoutes } from '../../lib/config/virtcontainers/network.js';
import { parseSignal } from '../../lib/config/virtcontainers/requests.js';
import { parseSandboxConfig } from '../../lib/config/virtcontainers/sandbox.js';
import { thrown } from '../helpers/rejection.js';

const mock = (more: object = {}): object => ({ hypervisorType: 'mock', ...more });
const refusal = (config: unknown) => thrown(() => parseSandboxConfig(config));

describe('a sandbox', () => {
  test('has the defaults of the built-in VMM', () => {
    expect(parseSandboxConfig({})).toMatchObject({
      hypervisorType: 'builtin',
      agentType: 'noop',
      proxyType: 'noProxy',
      shimType: 'noopShim',
      hypervisorConfig: { numVcpus: 1, kernelParams: [], debug: false },
      containers: [],
      annotations: {},
    });
  });

  test('takes every structure of virtcontainers 1.0', () => {
    const config = parseSandboxConfig({
      id: 'pod',
      hostname: 'pod',
      hooks: { preStartHooks: [] },
      vmConfig: { vcpus: 2, memory: 64 },
      hypervisorType: 'mock',
      hypervisorConfig: {
        kernelPath: '/boot/vmlinux',
        imagePath: '/images/guest.img',
        kernelParams: [{ key: 'ro' }, { key: 'loglevel', value: '7' }],
        debug: true,
        numVcpus: 1,
        memorySize: 128,
        disableBlockDeviceUse: true,
        hugePages: false,
        machineAccelerators: '',
        hypervisorParams: [],
        defaultBridges: 0,
      },
      agentType: 'noop',
      agentConfig: {},
      proxyType: 'noopProxy',
      proxyConfig: { debug: true },
      shimType: 'noopShim',
      shimConfig: {},
      networkConfig: { netNsPath: '/run/netns/pod', interworkingModel: 'macvtap' },
      volumes: [{ mountTag: 'shared', hostPath: '/srv' }],
      containers: [{ id: '1' }],
      annotations: { 'org.example.key': 'value' },
    });
    expect(config.hypervisorConfig).toEqual({
      kernelPath: '/boot/vmlinux',
      imagePath: '/images/guest.img',
      kernelParams: ['ro', 'loglevel=7'],
      debug: true,
      numVcpus: 1,
      memorySize: 128,
      disableBlockDeviceUse: true,
      blockDeviceDriver: 'virtio-mmio',
    });
  });

  const on: Record<string, unknown> = {
    hypervisorParams: [{ key: 'a' }],
    virtioFsCacheSize: 1,
    defaultBridges: 1,
    msize9p: 8192,
    memPrealloc: true,
    hugePages: true,
    realtime: true,
    mlock: true,
    bootToBeTemplate: true,
    bootFromTemplate: true,
  };
  test.each(Object.entries(refusedHypervisorOptions))('refuses %s: %s', (name, reason) => {
    const error = refusal(mock({ hypervisorConfig: { [name]: on[name] ?? 'x' } }));
    expect(error.code).toBe('ERR_UNSUPPORTED');
    expect(error.message).toContain(`"${name}" is not supported: ${reason}`);
    expect(error.context).toEqual({ option: `hypervisorConfig.${name}` });
  });

  test('refuses other VMMs by their names', () => {
    const error = refusal({ hypervisorType: 'qemu' });
    expect(error).toMatchObject({ code: 'ERR_UNSUPPORTED', context: { option: 'hypervisorType' } });
    expect(error.message).toContain('the VMM is built in');
    expect(refusal({ hypervisorType: 'qumu' })).toMatchObject({
      code: 'ERR_INVALID_CONFIG',
      message: expect.stringContaining('"builtin" or "mock"'),
    });
  });

  test.each([
    [{ agentType: 'kata' }, 'agentType'],
    [mock({ hooks: { postStopHooks: [{ path: '/bin/true' }] } }), 'hooks.postStopHooks'],
    [{ volumes: [{ mountTag: 't', hostPath: '/srv' }] }, 'volumes'],
    [{ networkConfig: { netNsPath: '/run/netns/x' } }, 'networkConfig.netNsPath'],
    [{ proxyType: 'kataProxy', proxyConfig: { path: '/p' } }, 'proxyType'],
    [mock({ hypervisorConfig: { blockDeviceDriver: 'virtio-scsi' } }), 'blockDeviceDriver'],
  ])('refuses %j by name', (config, option) => {
    const error = refusal(config);
    expect(error.code).toBe('ERR_UNSUPPORTED');
    expect(error.context.option).toContain(option);
  });

  test.each([
    [{ name: 'x' }, 'unknown option "name"'],
    [{ hypervisorConfig: { kernel: '/k' } }, 'unknown option "hypervisorConfig.kernel"'],
    [{ hypervisorConfig: { numVcpus: 0 } }, 'hypervisorConfig.numVcpus is 0'],
    [{ hypervisorConfig: { imagePath: '/i', initrdPath: '/r' } }, 'initrdPath'],
    [{ vmConfig: { vcpus: 4 }, hypervisorConfig: { defaultMaxVcpus: 2 } }, 'defaultMaxVcpus'],
    [{ agentType: 'gogo' }, 'agentType'],
    [{ agentConfig: { x: 1 } }, 'unknown option "agentConfig.x"'],
    [mock({ shimType: 'kataShim' }), 'shimConfig.path'],
    [mock({ proxyType: 'ccProxy' }), 'proxyConfig.path'],
    [{ networkConfig: { interworkingModel: 'ipvlan' } }, 'networkConfig.interworkingModel'],
    [{ containers: [{ id: 'a' }, { id: 'a' }] }, 'two containers have the id "a"'],
    [{ id: 'a/b' }, 'id is "a/b"'],
    [{ annotations: { '': 'x' } }, 'annotations'],
    [{ hostname: 'x'.repeat(65) }, 'hostname'],
    ['x', 'the options must be an object'],
  ])('does not take %j', (config, part) => {
    expect(refusal(config)).toMatchObject({
      code: 'ERR_INVALID_CONFIG',
      message: expect.stringContaining(part),
    });
  });

  test('takes the spellings of the Kata API design', () => {
    expect(parseSandboxConfig({ shimType: 'katashimbuiltin' }).shimType).toBe('kataBuiltInShim');
    expect(parseSandboxConfig({ proxyType: 'kataProxyBuiltin' }).proxyType).toBe(
      'kataBuiltInProxy',
    );
  });
});

describe('a container', () => {
  test('has defaults, and what the sandbox sets is not taken over', () => {
    const config = parseContainerConfig({
      id: 'c',
      cmd: { args: ['/bin/sh'], envs: [{ var: 'PATH', value: '/bin' }] },
      deviceInfos: [{ containerPath: '/dev/x', id: 'mine', hotplugged: true }],
    });
    expect(config.cmd).toMatchObject({ workDir: '/', user: '', capabilities: { bounding: [] } });
    expect(config.deviceInfos).toEqual([
      {
        containerPath: '/dev/x',
        devType: 'b',
        major: 0,
        minor: 0,
        fileMode: 0o660,
        uid: 0,
        gid: 0,
      },
    ]);
  });

  test.each([
    [{ id: '..' }],
    [{ id: 'a/b' }],
    [{ id: 'x'.repeat(129) }],
    [{ id: 'c', rootfs: '/' }],
    [{ id: 'c', mounts: [{ source: '/', destination: '' }] }],
    [{ id: 'c', deviceInfos: [{ containerPath: '/x', devType: 'z' }] }],
    [{ id: 'c', deviceInfos: [{ containerPath: '' }] }],
    [{ id: 'c', annotations: { a: 1 } }],
  ])('does not take %j', (config) => {
    expect(thrown(() => parseContainerConfig(config)).code).toBe('ERR_INVALID_CONFIG');
  });

  test.each([
    [{ args: [] }],
    [{ args: ['a'], envs: [{ var: 'A=B', value: '' }] }],
    [{ args: ['a\0'] }],
    [{ args: ['a'], workDir: 'relative' }],
    [{ args: ['a'], capabilities: { bounding: ['chown'] } }],
    [{ args: ['a'], user: 0 }],
  ])('does not run %j', (cmd) => {
    expect(thrown(() => parseCmd(cmd)).code).toBe('ERR_INVALID_CONFIG');
  });
});

test.each([
  ['SIGTERM', 15],
  [9, 9],
  [64, 64],
] as const)('the signal %s is %i', (signal, number) => {
  expect(parseSignal(signal)).toBe(number);
});

test.each(['TERM', 'SIGNOPE', 0, 65, -1, 1.5, undefined])('%s is no signal', (signal) => {
  expect(thrown(() => parseSignal(signal)).code).toBe('ERR_INVALID_CONFIG');
});

describe('an interface', () => {
  const good = { device: 'tap0', name: 'eth0', hwAddr: '02:00:00:00:00:0A', linkType: 'tap' };

  test('has defaults, and a family by its address', () => {
    const ipAddresses = [{ address: 'fd00::2', mask: '64' }];
    expect(parseInterface({ ...good, ipAddresses })).toEqual({
      ...good,
      hwAddr: '02:00:00:00:00:0a',
      ipAddresses: [{ family: 'v6', address: 'fd00::2', mask: '64' }],
      mtu: 1500,
      rawFlags: 0,
    });
  });

  test.each([
    [{ hwAddr: '01:00:00:00:00:01' }],
    [{ hwAddr: '02:00' }],
    [{ name: 'a name' }],
    [{ name: 'x'.repeat(16) }],
    [{ mtu: 1 }],
    [{ linkType: 'wifi' }],
    [{ ipAddresses: [{ address: '10.0.0.1', mask: '33' }] }],
    [{ ipAddresses: [{ address: '10.0.0', mask: '8' }] }],
    [{ ipAddresses: [{ family: 'v6', address: '10.0.0.1', mask: '8' }] }],
  ])('does not take %j', (change) => {
    expect(thrown(() => parseInterface({ ...good, ...change })).code).toBe('ERR_INVALID_CONFIG');
  });

  test.each(['macvlan', 'macvtap', 'ipvlan', 'physical', 'vhost-user'])(
    'refuses %s',
    (linkType) => {
      expect(thrown(() => parseInterface({ ...good, linkType }))).toMatchObject({
        code: 'ERR_UNSUPPORTED',
        context: { option: 'linkType' },
      });
    },
  );
});

test('a route is to a network, or the default one', () => {
  const routes = [
    { dest: '10.0.0.0/8', device: 'eth0' },
    { dest: 'default', gateway: '10.0.0.1', device: 'eth0' },
  ];
  expect(parseRoutes(routes)).toMatchObject([
    { dest: '10.0.0.0/8', gateway: '' },
    { dest: '', gateway: '10.0.0.1' },
  ]);
  for (const dest of ['10.0.0.0/33', '10.0', 'a/8', '1.1.1.1/8/8']) {
    expect(thrown(() => parseRoutes([{ dest, device: 'eth0' }])).code).toBe('ERR_INVALID_CONFIG');
  }
});
