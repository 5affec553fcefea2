// The guest that the figures are about: our kernel and agent, by the public `Machine`.
import { fileURLToPath } from 'node:url';
import { Machine } from '../../dist/machine/index.js';
import { guestCommandLine } from '../../dist/native/command-line.js';

export const AGENT_PORT = 1024;
export const asset = (name) => fileURLToPath(new URL(`../../build/guest/${name}`, import.meta.url));

/** A machine that is not started. */
export function createGuest({ memoryMib, hotplugSlots = 0, drives = [] }) {
  return Machine.create({
    kernel: {
      path: asset('vmlinux'),
      initrd: asset('initramfs.cpio'),
      args: [...guestCommandLine],
    },
    vcpus: 1,
    memoryMib,
    vsock: {},
    hotplugSlots,
    drives,
  });
}

/** Waits for the agent of a machine that is about to run. */
export function dialIn(machine) {
  return new Promise((resolve, reject) => {
    machine.listenVsock(AGENT_PORT, (stream) => {
      const { emulatedInstructions } = machine.stats().vcpus[0];
      resolve({ machine, stream, instructions: emulatedInstructions });
    });
    machine.once('exit', ({ message }) => {
      reject(new Error(`the guest ended before its agent was ready: ${message}`));
    });
  });
}

/** A machine whose agent has dialled in, and how many guest instructions were emulated until then. */
export async function bootToAgent(options) {
  const machine = await createGuest(options);
  const ready = dialIn(machine);
  await machine.start();
  try {
    return await ready;
  } catch (error) {
    console.error(machine.consoleTail());
    await machine.close();
    throw error;
  }
}
