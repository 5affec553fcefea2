/** A guest with its agent, by the parts below `Sandbox`: for what a sandbox does not do yet. */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { Machine, type MachineConfig } from '../../lib/machine/index.js';
import { guestCommandLine } from '../../lib/native/command-line.js';
import { AGENT_PORT, AgentClient } from '../../lib/rpc/agent-client.js';
import { ExecChannel } from '../../lib/rpc/exec-channel.js';
import { asset } from './guest.js';

const PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
let execs = 0n;

export interface AgentGuest {
  machine: Machine;
  agent: AgentClient;
}

/** What the agent dials, each time it does. */
export function acceptAgent(machine: Machine): Promise<AgentClient> {
  return new Promise((resolve, reject) => {
    machine.once('exit', ({ message }) => reject(new Error(`the guest ended: ${message}`)));
    const listener = machine.listenVsock(AGENT_PORT, (stream: Socket) => {
      listener.close().catch(() => {});
      resolve(new AgentClient(stream));
    });
  });
}

/** Boots our kernel with a root on the base image and `upperPath`. */
export async function bootAgentGuest(
  upperPath: string,
  memoryMib: number,
  more: Partial<MachineConfig> = {},
): Promise<AgentGuest> {
  const machine = await Machine.create({
    kernel: {
      path: asset('vmlinux'),
      initrd: asset('initramfs.cpio'),
      args: [...guestCommandLine],
    },
    vcpus: 1,
    memoryMib,
    drives: [
      { id: 'base', path: asset('base.erofs'), readOnly: true },
      { id: 'upper', path: upperPath },
    ],
    vsock: {},
    ...more,
  });
  try {
    const dialled = acceptAgent(machine);
    await machine.start();
    const agent = await dialled;
    await agent.setUpRoot({
      lower: { source: '/dev/vda', fstype: 'erofs', readOnly: true },
      upper: { source: '/dev/vdb', fstype: 'ext4' },
      hostname: 'original',
      restricted: false,
    });
    return { machine, agent };
  } catch (error) {
    console.error(machine.consoleTail(16 * 1024));
    await machine.close();
    throw error;
  }
}

/** Lets a restored machine run, and tells its agent that it is one. */
export async function wake(machine: Machine, hostname?: string): Promise<AgentGuest> {
  const dialled = acceptAgent(machine);
  await machine.resume();
  const agent = await dialled;
  const realtimeNs = BigInt(Date.now()) * 1_000_000n;
  await agent.restored({ randomSeed: randomBytes(64), realtimeNs, hostname });
  return { machine, agent };
}

/** Runs a shell script; its output, or an error when it did not succeed. */
export async function shell({ machine }: AgentGuest, script: string): Promise<string> {
  const channel = await startShell(machine, script);
  const output: Uint8Array[] = [];
  try {
    for (;;) {
      const event = await channel.receive();
      if (event === undefined) throw new Error('the exec ended without an exit');
      if (event.type === 'failed') throw new Error(`not started: ${event.message}`);
      if (event.type === 'stdout' || event.type === 'stderr') output.push(event.data);
      if (event.type !== 'exited') continue;
      const text = Buffer.concat(output).toString();
      if (event.exitCode !== 0) throw new Error(`"${script}" failed: ${text}`);
      return text.trim();
    }
  } finally {
    channel.close();
  }
}

export async function startShell(machine: Machine, script: string): Promise<ExecChannel> {
  execs += 1n;
  const execId = execs;
  return ExecChannel.start(await machine.connectVsock(AGENT_PORT), {
    execId,
    args: ['sh', '-c', script],
    env: [PATH],
    stdin: false,
  });
}

/** With its holes. */
export function copySparse(from: string, to: string): void {
  const { status, stderr } = spawnSync('cp', ['--sparse=always', from, to]);
  if (status !== 0) throw new Error(`cp failed: ${stderr}`);
}
