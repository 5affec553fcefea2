/** A guest that goes on from a template: its kernel has booted and its root is set up. */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { EmbervmError } from '../errors.js';
import { Machine } from '../machine/machine.js';
import { copyDisk } from '../state/disk-copy.js';
import { discardTemplate, type Template } from '../state/templates/template-store.js';
import type { BootAssets } from './boot-assets.js';
import {
  acceptAgent,
  type BootContext,
  type BootedGuest,
  GUEST_CID,
  type GuestSource,
} from './guest-source.js';

const NS_PER_MS = 1_000_000n;
const SEED_BYTES = 64;
/** A guest that goes on needs a fraction of a second; a boot is better than to wait for long. */
const LIMIT_MS = 15_000;
/** Damaged, of another version of this package, of another host; or its guest does not go on. */
const FAULTS_OF_TEMPLATE = ['ERR_SNAPSHOT_', 'ERR_BOOT_', 'ERR_MACHINE_FAULT', 'ERR_GUEST_PANIC'];

export class WarmStart implements GuestSource {
  readonly kind = 'warm';
  readonly #assets: BootAssets;
  readonly #template: Template;

  constructor(assets: BootAssets, template: Template) {
    this.#assets = assets;
    this.#template = template;
  }

  async start(context: BootContext): Promise<BootedGuest> {
    const { clock, diskPath, durable, hostname, options } = context;
    const { machine: saved, disk, guest } = this.#template;
    clock.begin('disk');
    await copyDisk(disk, diskPath, { durable });
    clock.begin('restore');
    const machine = await Machine.restore(saved, {
      drives: [
        { id: 'base', path: this.#assets.base },
        { id: 'upper', path: diskPath },
      ],
      vsock: { cid: GUEST_CID },
      signal: options.signal,
    });
    const watch = context.watch(machine, LIMIT_MS);
    const dialled = acceptAgent(machine);
    await machine.resume();
    clock.begin('agent');
    const agent = await watch.during(dialled);
    const realtimeNs = BigInt(Date.now()) * NS_PER_MS;
    await watch.ask('renew the guest', () =>
      agent.restored({ randomSeed: randomBytes(SEED_BYTES), realtimeNs, hostname }),
    );
    return {
      machine,
      agent,
      facts: { ...guest, agentStartedMs: null, agentDialledMs: null },
    };
  }

  async giveWay({ diskPath, warn }: BootContext, error: unknown): Promise<boolean> {
    if (!(error instanceof EmbervmError) || error.code === 'ERR_ABORTED') return false;
    const { code, message } = error;
    warn(`not started from the template ${this.#template.key}: ${message}`);
    await rm(diskPath, { force: true });
    if (FAULTS_OF_TEMPLATE.some((prefix) => code.startsWith(prefix))) {
      await discardTemplate(this.#template.key);
    }
    return true;
  }
}
