// What the life of a sandbox of virtcontainers costs the host, without a VM; and what a container
// costs a guest.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { message } from '../../dist/rpc/container-client.js';
import * as kata from '../../dist/rpc/gen/kata_agent_pb.js';
import * as oci from '../../dist/rpc/gen/kata_oci_pb.js';
import { createSandbox } from '../../dist/virtcontainers/index.js';
import { withContainers } from '../lib/container-guest.mjs';
import { round, summarize } from '../lib/statistics.mjs';
import { tinyProgram } from '../lib/tiny-program.mjs';

const WARM_UP = 5;
const RUNS = 40;
const CONTAINERS = 9;
const CONTAINER_WARM_UP = 2;
const NAMESPACES = ['pid', 'ipc', 'uts', 'mount', 'network', 'cgroup'];

async function live() {
  const began = performance.now();
  const sandbox = await createSandbox({ hypervisorType: 'mock', containers: [{ id: 'c' }] });
  await sandbox.start();
  await sandbox.stop();
  await sandbox.delete();
  return performance.now() - began;
}

/** A program that only exits, with every namespace and limits of its own. */
function containerSpec() {
  return message(oci.Spec, {
    Version: '1.0.2',
    Process: message(oci.Process, { Args: ['/run'], Cwd: '/' }),
    Root: message(oci.Root, { Path: '/root/box' }),
    Hostname: 'box',
    Linux: message(oci.Linux, {
      Namespaces: NAMESPACES.map((Type) => message(oci.LinuxNamespace, { Type })),
      Resources: message(oci.LinuxResources, {
        Memory: message(oci.LinuxMemory, { Limit: 32n * 1024n * 1024n }),
        Pids: message(oci.LinuxPids, { Limit: 20n }),
      }),
    }),
  });
}

/** From the request to create a container to the end of its program. */
async function startContainers() {
  const counts = [];
  await withContainers(tinyProgram(), async (machine, client) => {
    const call = (method, request, fields, response = kata.Empty) =>
      client.call(method, [request, fields], response);
    await call('CreateSandbox', kata.CreateSandboxRequest, { sandboxId: 'bench' });
    const OCI = containerSpec();
    for (let run = 0; run < CONTAINER_WARM_UP + CONTAINERS; run++) {
      const containerId = `c${run}`;
      const count = () => machine.stats().vcpus[0].emulatedInstructions;
      const before = count();
      await call('CreateContainer', kata.CreateContainerRequest, { containerId, OCI });
      await call('StartContainer', kata.StartContainerRequest, { containerId });
      const wait = { containerId };
      const { status } = await call(
        'WaitProcess',
        kata.WaitProcessRequest,
        wait,
        kata.WaitProcessResponse,
      );
      if (status !== 0) throw new Error(`the program of a container ended with ${status}`);
      counts.push(before < 0 ? null : count() - before);
      await call('RemoveContainer', kata.RemoveContainerRequest, { containerId });
    }
  });
  const name = 'container_start_guest_instructions';
  const unit = 'instructions';
  const counted = counts.slice(CONTAINER_WARM_UP);
  if (counted.includes(null)) return { name, value: null, unit };
  const { median, min, max } = summarize(counted);
  return { name, value: median, unit, min, max };
}

/** Of the host alone. */
async function timeLives(note) {
  note(`creating, starting, stopping and deleting ${RUNS} sandboxes…`);
  const inherited = process.env.EMBERVM_HOME;
  const home = await mkdtemp(join(tmpdir(), 'embervm-bench-'));
  process.env.EMBERVM_HOME = home;
  try {
    const times = [];
    for (let run = 0; run < WARM_UP + RUNS; run += 1) times.push(await live());
    const { median, min, max } = summarize(times.slice(WARM_UP));
    const values = { value: round(median), unit: 'ms', min: round(min), max: round(max) };
    return { name: 'lifecycle_host_ms', ...values };
  } finally {
    if (inherited === undefined) delete process.env.EMBERVM_HOME;
    else process.env.EMBERVM_HOME = inherited;
    await rm(home, { recursive: true, force: true });
  }
}

/** @param {(text: string) => void} note */
export async function measure(note) {
  const lives = await timeLives(note);
  note(`starting ${CONTAINERS} containers in a guest…`);
  return [lives, await startContainers()];
}
