/** One virtual machine in this process. */
import { EventEmitter } from 'node:events';
import type { Socket } from 'node:net';
import type {
  AttachedDriveConfig,
  MachineConfig,
  ResizeMemoryOptions,
  RestoreOverrides,
  SnapshotOptions,
  StopOptions,
} from '../config/machine.js';
import type { SharedDirConfig } from '../config/shared-dirs.js';
import { abortedError, ConfigError, fromNative, MachineError } from '../errors.js';
import { loadBinding } from '../native/binding.js';
import type { NativeBinding, NativeEvent, NativeMachine } from '../native/types.js';
import { toNativeDir, toNativeDrive, toNativeMachine, toNativeRestore } from './native-config.js';
import { adoptStream, discardStream } from './stream.js';
import type {
  BalloonStatistics,
  DeviceHandle,
  MachineEvents,
  MachineExit,
  MachineState,
  MachineStats,
  PowerOffRequest,
  ResizeVcpusRequest,
  SnapshotReport,
  VsockListener,
} from './types.js';
import { abortable, waitFor } from './wait.js';

const BYTES_PER_MIB = 1024 * 1024;
const DEFAULT_TAIL_BYTES = 4096;
/** How much console output outlives the machine. */
const MAX_TAIL_BYTES = 64 * 1024;

type ConfigModule = typeof import('../config/machine.js');

/**
 * A guest with its CPUs, memory and devices.
 *
 * @example
 * const machine = await Machine.create({ kernel: { path }, vcpus: 1, memoryMib: 128 });
 * await machine.start();
 */
export class Machine extends EventEmitter<MachineEvents> implements AsyncDisposable {
  readonly #native: NativeMachine;
  readonly #config: ConfigModule;
  readonly #listeners = new Map<number, (stream: Socket) => void>();
  readonly #exited: Promise<MachineExit>;
  #resolveExited: (exit: MachineExit) => void = () => {};
  #exit: MachineExit | undefined;
  #state: MachineState = 'created';
  /** Its CPUs have run here. */
  #ready = false;
  #powerOff: PowerOffRequest | undefined;
  #resizeVcpus: ResizeVcpusRequest | undefined;
  #closing: Promise<void> | undefined;
  /** Console output of a machine that is closed. */
  #finalTail: Uint8Array | undefined;

  private constructor(native: NativeMachine, config: ConfigModule) {
    super();
    this.#native = native;
    this.#config = config;
    this.#exited = new Promise((resolve) => {
      this.#resolveExited = resolve;
    });
  }

  /** Validates and allocates; nothing runs yet. The caller closes the machine. */
  static async create(
    config: MachineConfig,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<Machine> {
    const module = await import('../config/machine.js');
    const resolved = module.parseMachineConfig(config);
    return Machine.#make(module, options.signal, 'creating a machine', (binding, onEvents) =>
      binding.createMachine(toNativeMachine(resolved), onEvents),
    );
  }

  /**
   * Continues from what {@link Machine.snapshot} wrote to `directory`: a machine that is
   * paused, as it was but for `overrides`. Its vsock streams are gone, its guest finds
   * that out when it is resumed. Memory is read from the snapshot as the guest touches
   * it, so the files there must stay as they are for as long as the machine lives; they
   * may be removed.
   */
  static async restore(directory: string, overrides: RestoreOverrides = {}): Promise<Machine> {
    const module = await import('../config/machine.js');
    const resolved = module.parseRestoreOptions(directory, overrides);
    const what = 'restoring a machine';
    const machine = await Machine.#make(module, resolved.signal, what, (binding, onEvents) =>
      binding.restoreMachine(toNativeRestore(resolved), onEvents),
    );
    machine.#state = 'paused';
    return machine;
  }

  static async #make(
    module: ConfigModule,
    signal: AbortSignal | undefined,
    what: string,
    make: (
      binding: NativeBinding,
      onEvents: (events: NativeEvent[]) => void,
    ) => Promise<NativeMachine>,
  ): Promise<Machine> {
    if (signal?.aborted) throw abortedError(signal, what);
    let deliver = (_event: NativeEvent): void => {};
    const onEvents = (events: NativeEvent[]): void => {
      for (const event of events) deliver(event);
    };
    const native = await call(() => make(loadBinding(), onEvents));
    const machine = new Machine(native, module);
    deliver = (event) => machine.#onEvent(event);
    if (signal?.aborted) {
      await machine.close();
      throw abortedError(signal, what);
    }
    return machine;
  }

  get state(): MachineState {
    return this.#state;
  }

  /** How the machine ended; `undefined` while it has not. */
  get exit(): MachineExit | undefined {
    return this.#exit;
  }

  /** Starts the CPUs. */
  async start(): Promise<void> {
    this.#require('start', 'created');
    this.#state = 'booting';
    try {
      await call(() => this.#native.start());
    } catch (error) {
      this.#end({ reason: 'fault', message: (error as Error).message, context: {} });
      throw error;
    }
    if (this.#state !== 'booting') return;
    this.#state = 'running';
    this.#emitReady();
  }

  /** Stops the CPUs where they are. */
  async pause(): Promise<void> {
    this.#require('pause', 'running', 'paused');
    await call(() => this.#native.pause());
    if (this.#state === 'running') this.#state = 'paused';
  }

  async resume(): Promise<void> {
    this.#require('resume', 'paused', 'running');
    await call(() => this.#native.resume());
    if (this.#state !== 'paused') return;
    this.#state = 'running';
    if (!this.#ready) this.#emitReady();
  }

  /** Where each CPU of a paused machine is (RIP): for profilers, and for a guest that hangs. */
  async instructionPointers(): Promise<bigint[]> {
    this.#require('look at the CPUs of', 'paused');
    return call(() => this.#native.instructionPointers());
  }

  /**
   * Puts a drive into a free one of the `hotplugSlots`. The guest has the disk once a driver
   * is bound to the slot: whoever talks to the guest's agent does that.
   */
  async attachDrive(config: AttachedDriveConfig): Promise<DeviceHandle> {
    const drive = this.#config.parseAttachedDrive(config);
    this.#require('attach a drive to', 'running', 'paused', 'created');
    const { slot, address } = await call(() => this.#native.attachDrive(toNativeDrive(drive)));
    return { id: drive.id, slot, address };
  }

  /**
   * Puts a directory of the host into a free one of the `hotplugSlots`: what {@link attachDrive}
   * says of the driver holds. Its tag is its id. A machine that has one cannot be saved.
   */
  async attachSharedDir(config: SharedDirConfig): Promise<DeviceHandle> {
    const dir = this.#config.parseSharedDir(config);
    this.#require('attach a shared directory to', 'running', 'paused', 'created');
    const { slot, address } = await call(() => this.#native.attachSharedDir(toNativeDir(dir)));
    return { id: dir.tag, slot, address };
  }

  /** Takes a device out again and closes its file. The guest must have unbound its driver. */
  async detach(device: Pick<DeviceHandle, 'id'>): Promise<void> {
    this.#require('detach a device from', 'running', 'paused', 'created');
    await call(() => this.#native.detach(device.id));
  }

  /**
   * Puts another file, of any size, in the place of a drive's: between two requests, so the guest
   * sees each of them done on one of the two. What it was told is written is in the old one, which
   * is closed. The guest learns of another size, not that the content is another: unmount first.
   */
  async swapDrive(id: string, file: { path: string }): Promise<{ bytes: number }> {
    const drive = this.#config.parseDriveId(id);
    const { path } = this.#config.parseDriveFile(file);
    this.#require('swap a drive of', 'running', 'paused', 'created');
    return { bytes: await call(() => this.#native.swapDrive(drive, path)) };
  }

  /** Tells the guest how large a drive's file is now: after it has been made longer, or shorter. */
  async resizeDrive(id: string): Promise<{ bytes: number }> {
    const drive = this.#config.parseDriveId(id);
    this.#require('resize a drive of', 'running', 'paused', 'created');
    return { bytes: await call(() => this.#native.resizeDrive(drive)) };
  }

  /**
   * Has the guest bring its CPUs on line or off until `vcpus` are on, of at most `maxVcpus`.
   * ERR_UNSUPPORTED where nobody can ask the guest (see {@link onResizeVcpus}).
   */
  async resizeVcpus(vcpus: number): Promise<void> {
    this.#require('resize', 'running');
    const target = this.#config.parseVcpuTarget(vcpus, this.stats().vcpus.length);
    if (this.#resizeVcpus === undefined) {
      throw new ConfigError('ERR_UNSUPPORTED', 'nobody can ask this guest to resize its CPUs', {
        context: { option: 'resizeVcpus' },
      });
    }
    await this.#resizeVcpus(target);
  }

  /**
   * How much of the guest's memory its balloon should take, in MiB: the host has it back as the
   * guest hands it over (`stats().balloon`), and 0 returns it. A guest that runs out of memory
   * takes from its balloon. ERR_UNSUPPORTED for a machine without one.
   */
  async setBalloon(mib: number): Promise<void> {
    const target = this.#config.parseBalloonTarget(mib);
    this.#require('set the balloon of', 'running', 'paused', 'created');
    await call(() => this.#native.setBalloon(target * BYTES_PER_MIB));
  }

  /**
   * Has the guest bring its memory to `mib` MiB, from the `memoryMib` that it booted with to
   * `maxMemoryMib`, by steps of 4. Resolves to what it has, in MiB, when it has come as far as it
   * could: memory that it uses for what cannot be moved stays, and it returns the rest later if it
   * can (`stats().memory`). ERR_UNSUPPORTED for a machine without a `maxMemoryMib`,
   * ERR_GUEST_NO_DRIVER while the guest has no driver for it.
   */
  async resizeMemory(mib: number, options: ResizeMemoryOptions = {}): Promise<number> {
    const { mib: target, patienceMs, signal } = this.#config.parseResizeMemory(mib, options);
    this.#require('resize the memory of', 'running');
    const what = 'resizing the memory';
    if (signal?.aborted) throw abortedError(signal, what);
    const resized = call(() => this.#native.resizeMemory(target * BYTES_PER_MIB, patienceMs));
    return (await abortable(resized, signal, what)) / BYTES_PER_MIB;
  }

  /**
   * Asks the guest's balloon driver about memory. ERR_UNSUPPORTED for a machine without a balloon,
   * ERR_GUEST_NO_DRIVER while the guest has no driver for it.
   */
  async balloonStatistics(
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<BalloonStatistics> {
    this.#require('ask for the statistics of', 'running');
    const { signal } = options;
    if (signal?.aborted) throw abortedError(signal, 'asking the guest');
    return abortable(
      call(() => this.#native.balloonStatistics()),
      signal,
      'asking the guest',
    );
  }

  /**
   * Writes memory and the state of CPUs and devices to `directory`, which is made where
   * its parent exists, in place of a snapshot that is there already: until the new one is
   * complete and on the disk, the old one stays good. A running machine stands still
   * while it is copied. Drives are not part of it: copy them while the machine is paused.
   */
  async snapshot(directory: string, options: SnapshotOptions = {}): Promise<SnapshotReport> {
    const request = this.#config.parseSnapshotOptions(directory, options);
    this.#require('snapshot', 'running', 'paused');
    return call(() => this.#native.snapshot(request));
  }

  /**
   * Asks the guest to power off where it can be asked (see {@link onPowerOff}),
   * waits for its end, and kills it after `timeoutMs`.
   */
  async stop(options: StopOptions = {}): Promise<MachineExit> {
    const { timeoutMs, signal } = this.#config.parseStopOptions(options);
    if (this.#exit !== undefined) return this.#exit;
    if (this.#state === 'created' || timeoutMs === 0) return this.kill();
    if (this.#state === 'paused') await this.resume();
    this.#state = 'stopping';
    const deadline = performance.now() + timeoutMs;
    const what = 'stopping the machine';
    // A guest that cannot be asked may still end by itself in time.
    const asked = this.#powerOff?.(timeoutMs).catch(() => {});
    if (asked !== undefined) await waitFor(asked, { what, timeoutMs, signal });
    const left = deadline - performance.now();
    const exit = await waitFor(this.#exited, { what, timeoutMs: left, signal });
    return exit ?? this.kill();
  }

  /** Stops the CPUs for good, now. */
  async kill(): Promise<MachineExit> {
    if (this.#exit !== undefined) return this.#exit;
    this.#state = 'stopping';
    try {
      await call(() => this.#native.kill());
    } catch (error) {
      // It was closed meanwhile, which is an end too.
      if (this.#exit === undefined) throw error;
    }
    return this.#exited;
  }

  /** Resolves when the machine has ended. */
  async waitUntilStopped(options: { signal?: AbortSignal | undefined } = {}): Promise<MachineExit> {
    return abortable(this.#exited, options.signal, 'waiting for the machine');
  }

  /** Kills if need be and frees everything. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** How `stop()` asks the guest to power off: whoever talks to the guest's agent knows. */
  onPowerOff(request: PowerOffRequest | undefined): void {
    this.#powerOff = request;
  }

  /** How `resizeVcpus()` asks the guest: whoever talks to the guest's agent knows. */
  onResizeVcpus(request: ResizeVcpusRequest | undefined): void {
    this.#resizeVcpus = request;
  }

  /** Connects to a port on which the guest listens. */
  async connectVsock(
    port: number,
    options: { signal?: AbortSignal | undefined } = {},
  ): Promise<Socket> {
    const number = this.#config.parsePort(port);
    const { signal } = options;
    if (signal?.aborted) throw abortedError(signal, 'connecting to the guest');
    const connecting = call(() => this.#native.connectVsock(number));
    try {
      return adoptStream(await abortable(connecting, signal, 'connecting to the guest'));
    } catch (error) {
      // Nobody waits for it any more, but it may still come.
      connecting.then(discardStream, () => {});
      throw error;
    }
  }

  /** Calls `onConnection` for each connection of the guest to `port` of the host. */
  listenVsock(port: number, onConnection: (stream: Socket) => void): VsockListener {
    const number = this.#config.parsePort(port);
    if (this.#listeners.has(number)) {
      throw new MachineError('ERR_MACHINE_STATE', `port ${number} is listened on already`, {
        context: { port: number },
      });
    }
    callSync(() => this.#native.listenVsock(number));
    this.#listeners.set(number, onConnection);
    const close = async (): Promise<void> => {
      if (this.#listeners.get(number) !== onConnection) return;
      this.#listeners.delete(number);
      if (this.#closing === undefined) callSync(() => this.#native.unlistenVsock(number));
    };
    return { port: number, close, [Symbol.asyncDispose]: close };
  }

  /** Counters, read without a round trip to the guest. */
  stats(): MachineStats {
    this.#requireOpen('read the counters of');
    return callSync(() => this.#native.stats());
  }

  /**
   * Bytes of guest memory that are resident on the host. The kernel walks the page tables for it,
   * which takes milliseconds for each GiB, off the JavaScript thread.
   */
  async residentBytes(): Promise<number> {
    this.#requireOpen('count the memory of');
    return call(() => this.#native.residentBytes());
  }

  /** The last console output, at most `maxBytes`; also when the machine is closed. */
  consoleTail(maxBytes: number = DEFAULT_TAIL_BYTES): string {
    const tail = this.#finalTail ?? this.#native.consoleTail(maxBytes);
    return Buffer.from(tail.subarray(Math.max(0, tail.length - maxBytes))).toString('utf8');
  }

  /** Keeps the process alive while the machine runs (the default). */
  ref(): this {
    this.#native.ref();
    return this;
  }

  /** Lets the process end, and the machine with it. */
  unref(): this {
    this.#native.unref();
    return this;
  }

  #emitReady(): void {
    this.#ready = true;
    this.emit('ready');
  }

  async #close(): Promise<void> {
    this.#finalTail = this.#native.consoleTail(MAX_TAIL_BYTES);
    await call(() => this.#native.close());
    this.#listeners.clear();
    this.#end({ reason: 'killed', message: 'the machine was closed', context: {} });
  }

  #onEvent(event: NativeEvent): void {
    switch (event.type) {
      case 'vsock-connection':
        this.#onConnection(event.port, event.fd);
        return;
      case 'exit':
        this.#end({ reason: event.reason, message: event.message, context: event.context });
        return;
      case 'device-error':
        this.emit('device-error', event.device, event.message);
        return;
      case 'console-overflow':
        this.emit('console-overflow', event.droppedBytes);
        return;
    }
  }

  #onConnection(port: number, fd: number): void {
    const listener = this.#listeners.get(port);
    if (listener === undefined) discardStream(fd);
    else listener(adoptStream(fd));
  }

  #end(exit: MachineExit): void {
    if (this.#exit !== undefined) return;
    this.#exit = exit;
    const crashed = exit.reason === 'panic' || exit.reason === 'fault';
    this.#state = crashed ? 'crashed' : 'stopped';
    this.#resolveExited(exit);
    this.emit('exit', exit);
    if (!crashed) return;
    const code = exit.reason === 'panic' ? 'ERR_GUEST_PANIC' : 'ERR_MACHINE_FAULT';
    this.emit('crash', new MachineError(code, exit.message, { context: exit.context }));
  }

  #require(operation: string, ...states: MachineState[]): void {
    this.#requireOpen(operation);
    if (states.includes(this.#state)) return;
    throw new MachineError(
      'ERR_MACHINE_STATE',
      `cannot ${operation} a machine that is ${this.#state}, only one that is ${states[0]}`,
      { context: { operation, state: this.#state } },
    );
  }

  #requireOpen(operation: string): void {
    if (this.#closing === undefined) return;
    throw new MachineError('ERR_MACHINE_CLOSED', `cannot ${operation} a machine that is closed`, {
      context: { operation },
    });
  }
}

async function call<Value>(run: () => Promise<Value>): Promise<Value> {
  try {
    return await run();
  } catch (error) {
    throw fromNative(error);
  }
}

function callSync<Value>(run: () => Value): Value {
  try {
    return run();
  } catch (error) {
    throw fromNative(error);
  }
}
