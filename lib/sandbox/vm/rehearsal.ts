/**
 * The first commands, before a template is saved. What they read from the disk, and what the guest's
 * kernel does once or twice, every guest that goes on from the template has already: its own first
 * command costs a third.
 */
import type { VmConfig } from '../../config/sandbox.js';
import type { Machine } from '../../machine/machine.js';
import { AGENT_PORT } from '../../rpc/agent-client.js';
import { ExecChannel } from '../../rpc/exec-channel.js';
import type { VmRequest } from './vm-request.js';

/**
 * The shell of the sandbox's root, if it has one: what most commands begin with. What the set-up of
 * the root wrote goes to the disk here, or each guest's journal would do it again.
 */
const COMMAND = ['/bin/sh', '-c', 'sync || :'];
/** At the second use of a page of a file, the kernel moves it to its active list. */
const RUNS = 2;
/** No other command runs yet. */
const EXEC_ID = 1n;
/** A shell of an image may be any program, and one that does not end must not hold up the boot. */
const LIMIT_MS = 10_000;

/** That it could not be run matters to nobody. */
export async function rehearse(machine: Machine, { config, warn }: VmRequest): Promise<void> {
  try {
    for (let run = 0; run < RUNS; run++) await once(machine, config.securityProfile);
  } catch (error) {
    warn(`no command was run before the template was saved: ${(error as Error).message}`);
  }
}

async function once(machine: Machine, profile: VmConfig['securityProfile']): Promise<void> {
  const channel = await ExecChannel.start(await machine.connectVsock(AGENT_PORT), {
    execId: EXEC_ID,
    args: COMMAND,
    env: [],
    cwd: '/',
    stdin: false,
    restricted: profile === 'restricted',
  });
  const timer = setTimeout(() => channel.close(), LIMIT_MS);
  try {
    while ((await channel.receive()) !== undefined);
  } finally {
    clearTimeout(timer);
    channel.close();
  }
}
