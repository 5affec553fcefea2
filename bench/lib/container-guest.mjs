// A guest with a root, in which containers run: by the parts below the public faces.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentClient } from '../../dist/rpc/agent-client.js';
import { CONTAINER_PORT, ContainerClient } from '../../dist/rpc/container-client.js';
import { ExecChannel } from '../../dist/rpc/exec-channel.js';
import { createUpperDisk } from '../../dist/state/upper-disk.js';
import { AGENT_PORT, asset, bootToAgent } from './guest.mjs';

const UPPER_MIB = 64;

/** The end of a script in the guest's root, which must succeed. */
async function runScript(machine, script) {
  const channel = await ExecChannel.start(await machine.connectVsock(AGENT_PORT), {
    execId: 1n,
    args: ['sh', '-c', script],
    env: ['PATH=/bin'],
    stdin: false,
  });
  try {
    for (;;) {
      const event = await channel.receive();
      if (event?.type === 'exited' && event.exitCode === 0) return;
      if (event === undefined || event.type === 'failed' || event.type === 'exited') {
        throw new Error(`"${script}" failed: ${JSON.stringify(event)}`);
      }
    }
  } finally {
    channel.close();
  }
}

/** Calls `use` with the machine and its container service, `program` being /box/run of the root. */
export async function withContainers(program, use) {
  const directory = mkdtempSync(join(tmpdir(), 'embervm-bench-'));
  const upper = join(directory, 'upper.ext4');
  let guest;
  try {
    await createUpperDisk(upper, UPPER_MIB);
    const base = { id: 'base', path: asset('base.erofs'), readOnly: true };
    guest = await bootToAgent({ memoryMib: 256, drives: [base, { id: 'upper', path: upper }] });
    const { machine, stream } = guest;
    const agent = new AgentClient(stream);
    await agent.setUpRoot({
      lower: { source: '/dev/vda', fstype: 'erofs', readOnly: true },
      upper: { source: '/dev/vdb', fstype: 'ext4' },
      hostname: 'bench',
      restricted: false,
    });
    const octal = [...program].map((byte) => `\\${byte.toString(8).padStart(3, '0')}`).join('');
    await runScript(machine, `mkdir /box && printf '${octal}' >/box/run && chmod +x /box/run`);
    const dialled = new Promise((resolve) => machine.listenVsock(CONTAINER_PORT, resolve));
    await agent.startContainerService(CONTAINER_PORT);
    await use(machine, new ContainerClient(await dialled));
  } finally {
    await guest?.machine.close();
    rmSync(directory, { recursive: true, force: true });
  }
}
