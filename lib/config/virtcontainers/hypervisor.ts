/** The hypervisor of a sandbox of `embervm/virtcontainers`. */
import { hostPath } from '../common.js';
import { hostMemoryMib, memoryMib, vcpuCount } from '../host-limits.js';
import { kernelArgument } from '../machine.js';
import * as z from '../zod.js';
import { nameOf, refused } from './refused.js';

/** `builtin`: the VMM of this package. `mock`: the same interface without a VM, for tests. */
export type HypervisorType = 'builtin' | 'mock';

/** A word of the kernel command line: `key=value`, or `key` where the value is empty. */
export interface Param {
  key: string;
  value?: string | undefined;
}

export interface HypervisorConfig {
  /** An ELF `vmlinux` or a bzImage; default: the kernel of this package. */
  kernelPath?: string | undefined;
  /** A raw disk image, which the guest has read-only as `/dev/vda`; default: the base image. */
  imagePath?: string | undefined;
  /** An initramfs whose init dials back as our agent does; not together with `imagePath`. */
  initrdPath?: string | undefined;
  /** Added to the kernel command line. */
  kernelParams?: Param[] | undefined;
  /** The kernel prints what it does on the console. */
  debug?: boolean | undefined;
  /** Default of `vmConfig.vcpus`; 1. */
  numVcpus?: number | undefined;
  /** vCPUs that can be brought on line later; default `numVcpus`. */
  defaultMaxVcpus?: number | undefined;
  /** Default of `vmConfig.memory`, in MiB; 2048, or what the host has. */
  memorySize?: number | undefined;
  /** Refuse block devices. */
  disableBlockDeviceUse?: boolean | undefined;
  /** Refused: the kernel is loaded without firmware. */
  firmwarePath?: string | undefined;
  /** Refused: there is no machine type with accelerators. */
  machineAccelerators?: string | undefined;
  /** Refused: the VMM is built in. */
  hypervisorPath?: string | undefined;
  /** Refused: the VMM is built in. */
  hypervisorParams?: Param[] | undefined;
  /** Refused: there is one type of machine. */
  hypervisorMachineType?: string | undefined;
  /** Refused: directories of the host cannot be shared yet. */
  sharedFs?: string | undefined;
  /** Refused: devices are built in. */
  virtioFsDaemon?: string | undefined;
  /** Refused: there is no DAX window. */
  virtioFsCacheSize?: number | undefined;
  /** Refused: there is no DAX window. */
  virtioFsCache?: string | undefined;
  /** Refused: there is no PCI. */
  defaultBridges?: number | undefined;
  /** `virtio-mmio` (default); other drivers are refused. */
  blockDeviceDriver?: string | undefined;
  /** Refused: there is no 9p. */
  msize9p?: number | undefined;
  /** Refused: memory comes as the guest touches it. */
  memPrealloc?: boolean | undefined;
  /** Refused: memory comes as the guest touches it. */
  hugePages?: boolean | undefined;
  /** Refused: vCPU threads have the scheduling of the process. */
  realtime?: boolean | undefined;
  /** Refused: locks of memory are not made. */
  mlock?: boolean | undefined;
  /** Accepted: nothing is customized below another VMM, so there is nothing to override. */
  disableNestingChecks?: boolean | undefined;
  /** Refused: templates belong to the VM factories. */
  bootToBeTemplate?: boolean | undefined;
  /** Refused: templates belong to the VM factories. */
  bootFromTemplate?: boolean | undefined;
  /** Refused: templates belong to the VM factories. */
  memoryPath?: string | undefined;
  /** Refused: templates belong to the VM factories. */
  devicesStatePath?: string | undefined;
}

export interface ResolvedHypervisorConfig {
  kernelPath?: string | undefined;
  imagePath?: string | undefined;
  initrdPath?: string | undefined;
  kernelParams: string[];
  debug: boolean;
  numVcpus: number;
  defaultMaxVcpus?: number | undefined;
  memorySize: number;
  disableBlockDeviceUse: boolean;
  blockDeviceDriver: 'virtio-mmio';
}

const DEFAULT_VCPUS = 1;
const DEFAULT_MEMORY_MIB = 2048;

const BUILT_IN = 'the VMM is built in, and no program is run for it';
const NO_PCI = 'devices are on virtio-mmio; those that come later take a slot of it';
const NO_DAX = 'there is no cache window (DAX)';
const ON_TOUCH = 'memory of the guest is taken from the host as the guest touches it';
const TEMPLATES = 'templates are made and used by the VM factories of "embervm"';

/** Each with its reason. The page docs/virtcontainers.md lists the same. */
export const refusedHypervisorOptions: Readonly<Record<string, string>> = {
  firmwarePath: 'the kernel is loaded directly, without firmware',
  machineAccelerators: 'there is one type of machine, and KVM is always used',
  hypervisorPath: BUILT_IN,
  hypervisorParams: BUILT_IN,
  hypervisorMachineType: 'there is one type of machine',
  sharedFs: 'directories of the host cannot be shared with these guests yet',
  virtioFsDaemon: BUILT_IN,
  virtioFsCacheSize: NO_DAX,
  virtioFsCache: NO_DAX,
  defaultBridges: NO_PCI,
  msize9p: 'there is no 9p',
  memPrealloc: ON_TOUCH,
  hugePages: ON_TOUCH,
  realtime: 'the threads of vCPUs have the scheduling of this process',
  mlock: ON_TOUCH,
  bootToBeTemplate: TEMPLATES,
  bootFromTemplate: TEMPLATES,
  memoryPath: TEMPLATES,
  devicesStatePath: TEMPLATES,
};

const OTHER_VMM = `${BUILT_IN}: use "builtin", or "mock" for tests`;

export const hypervisorType: z.ZodMiniType<HypervisorType> = nameOf(
  'hypervisorType',
  ['builtin', 'mock'],
  { qemu: OTHER_VMM, firecracker: OTHER_VMM, clh: OTHER_VMM, acrn: OTHER_VMM, nemu: OTHER_VMM },
);

const kernelText = z
  .string()
  .check(
    z.refine(
      (text) => text === '' || kernelArgument.safeParse(text).success,
      'is no kernel argument',
    ),
  );

const param = z.pipe(
  z.strictObject({ key: kernelArgument, value: z._default(kernelText, '') }),
  z.transform(({ key, value }) => (value === '' ? key : `${key}=${value}`)),
);

const refusals = Object.fromEntries(
  Object.entries(refusedHypervisorOptions).map(([name, reason]) => [name, refused(name, reason)]),
);

export const hypervisorConfig: z.ZodMiniType<ResolvedHypervisorConfig> = z.pipe(
  z
    .strictObject({
      ...refusals,
      kernelPath: z.optional(hostPath).check(z.describe('kernel of the guest')),
      imagePath: z.optional(hostPath).check(z.describe('disk image of the guest')),
      initrdPath: z.optional(hostPath).check(z.describe('initramfs of the guest')),
      kernelParams: z
        ._default(z.array(param), [])
        .check(z.describe('words of the kernel command line')),
      debug: z._default(z.boolean(), false).check(z.describe('a kernel that prints what it does')),
      numVcpus: z._default(vcpuCount, DEFAULT_VCPUS).check(z.describe('default number of vCPUs')),
      defaultMaxVcpus: z.optional(vcpuCount).check(z.describe('vCPUs that can be on line')),
      memorySize: z
        ._default(memoryMib, Math.min(DEFAULT_MEMORY_MIB, hostMemoryMib()))
        .check(z.describe('default memory in MiB')),
      disableBlockDeviceUse: z
        ._default(z.boolean(), false)
        .check(z.describe('refuse block devices')),
      disableNestingChecks: z
        .optional(z.boolean())
        .check(z.describe('without effect: nothing is checked')),
      blockDeviceDriver: z._default(
        nameOf('blockDeviceDriver', ['virtio-mmio'], {
          'virtio-scsi': NO_PCI,
          'virtio-blk': NO_PCI,
          nvdimm: NO_PCI,
        }),
        'virtio-mmio',
      ),
    })
    .check(
      z.refine(({ imagePath, initrdPath }) => imagePath === undefined || initrdPath === undefined, {
        path: ['initrdPath'],
        message: 'cannot be set together with imagePath',
      }),
    ),
  z.transform(({ disableNestingChecks: _, ...config }) => {
    const wanted = config as ResolvedHypervisorConfig;
    for (const name of Object.keys(refusals)) delete (config as Record<string, unknown>)[name];
    return wanted;
  }),
);
