// One QEMU process with one guest: its `microvm` machine, by KVM, with a virtio console on stdout
// and its monitor on a socketpair.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Monitor } from './monitor.mjs';

const MONITOR_FD = 3;
const TAIL_BYTES = 4000;
/** What QEMU says when a guest came upon an instruction that its host cannot run; it then stands still. */
const STUCK = 'KVM internal error';
const POLL_MS = 2;
/** Memory stays in its file instead of going through the stream, as it does with embervm. */
const MEMORY_STAYS = { capabilities: [{ capability: 'x-ignore-shared', state: true }] };

const running = new Set();
let watching = false;

/** No QEMU outlives this process. */
function watchOwnEnd() {
  if (watching) return;
  watching = true;
  process.once('exit', () => {
    for (const child of running) child.kill('SIGKILL');
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.once(signal, () => process.exit(1));
  }
}

function listArguments({ kvm, kernel, initrd, words, memoryMib, memory, drive, incoming }) {
  const cpu = kvm === 'pvm' ? 'host,-arch-capabilities,-cx16' : 'host';
  const machine = 'microvm,acpi=off,pit=on,pic=on,rtc=off,isa-serial=off';
  return [
    ['-nodefaults', '-no-user-config', '-no-reboot'],
    ['-display', 'none'],
    ['-accel', 'kvm', '-cpu', cpu, '-m', String(memoryMib)],
    ['-M', memory === undefined ? machine : `${machine},memory-backend=ram`],
    memory === undefined
      ? []
      : [
          '-object',
          `memory-backend-file,id=ram,size=${memoryMib}M,mem-path=${memory.path},share=${memory.shared ? 'on' : 'off'}`,
        ],
    ['-kernel', kernel, '-initrd', initrd, '-append', words.join(' ')],
    ['-chardev', 'stdio,id=console,signal=off', '-device', 'virtio-serial-device'],
    ['-device', 'virtconsole,chardev=console'],
    ['-chardev', `socket,id=monitor,fd=${MONITOR_FD}`, '-mon', 'chardev=monitor,mode=control'],
    drive === undefined
      ? []
      : [
          '-drive',
          `if=none,id=disk,format=raw,file=${drive}`,
          '-device',
          'virtio-blk-device,drive=disk',
        ],
    incoming ? ['-incoming', 'defer'] : [],
  ].flat();
}

/** The guest's CPU stopped for good: see kernel.mjs for what is left that can do that. */
export class GuestStuck extends Error {}

export class QemuMachine {
  #child;
  #monitor;
  #output = '';
  #errors = '';
  #watchers = new Set();

  constructor(program, options) {
    watchOwnEnd();
    this.#child = spawn(program, listArguments(options), {
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    });
    running.add(this.#child);
    this.#child.once('exit', () => running.delete(this.#child));
    this.#child.stdout.on('data', (chunk) => {
      this.#output = (this.#output + chunk).slice(-TAIL_BYTES);
      for (const watch of this.#watchers) watch();
    });
    this.#child.stderr.on('data', (chunk) => {
      this.#errors = (this.#errors + chunk).slice(-TAIL_BYTES);
      for (const watch of this.#watchers) watch();
    });
    this.#monitor = new Monitor(this.#child.stdio[MONITOR_FD]);
  }

  /** Before any other question to its monitor. */
  async negotiate() {
    await this.#monitor.execute('qmp_capabilities');
  }

  /** Until the guest has printed `text`; rejects when its process or its CPU ends before. */
  async printed(text, timeoutMs) {
    let stop = () => {};
    const found = new Promise((resolve, reject) => {
      const watch = () => {
        if (this.#output.includes(text)) resolve(undefined);
        else if (this.#errors.includes(STUCK)) reject(new GuestStuck(this.#errors));
      };
      const fail = (what) => () =>
        reject(new Error(`QEMU ${what} before its guest printed "${text}"\n${this.#errors}`));
      const ended = fail('ended');
      const timer = setTimeout(fail(`ran for ${timeoutMs} ms`), timeoutMs);
      this.#watchers.add(watch);
      this.#child.once('exit', ended);
      stop = () => {
        clearTimeout(timer);
        this.#watchers.delete(watch);
        this.#child.off('exit', ended);
      };
      watch();
    });
    try {
      await found;
    } finally {
      stop();
    }
  }

  /** Stops the guest and writes what is not in the file of its memory. */
  async save(path) {
    await this.#monitor.execute('stop');
    await this.#monitor.execute('migrate-set-capabilities', MEMORY_STAYS);
    await this.#monitor.execute('migrate', { uri: `exec:cat >'${path}'` });
    for (;;) {
      const { status } = await this.#monitor.execute('query-migrate');
      if (status === 'completed') return;
      if (status === 'failed') throw new Error(`QEMU could not save its guest\n${this.#errors}`);
      await sleep(POLL_MS);
    }
  }

  /** Goes on from what `save` wrote; the process was started with `incoming`. */
  async load(path) {
    await this.negotiate();
    await this.#monitor.execute('migrate-set-capabilities', MEMORY_STAYS);
    await this.#monitor.execute('migrate-incoming', { uri: `exec:cat '${path}'` });
    while ((await this.#monitor.execute('query-status')).status === 'inmigrate') {
      await sleep(POLL_MS);
    }
    await this.#monitor.execute('cont');
  }

  /** KVM's counters of the CPU, by name. */
  async counters() {
    const [provider] = await this.#monitor.execute('query-stats', { target: 'vcpu' });
    return Object.fromEntries(provider.stats.map(({ name, value }) => [name, value]));
  }

  /** Resident memory of the process, in MiB. */
  residentMib() {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, 'latin1');
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)[1]) / 1024;
  }

  async close() {
    if (!running.has(this.#child)) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }
}
