/** The life of a booted sandbox: who may use it, when it ends, and what is left of it then. */
import { parseStopOptions, type StopOptions } from '../config/machine.js';
import { SandboxError } from '../errors.js';
import type { Machine } from '../machine/machine.js';
import type { MachineExit } from '../machine/types.js';
import { abortable, waitFor } from '../machine/wait.js';
import type { AgentClient } from '../rpc/agent-client.js';
import type { LogWriter } from '../state/logs/writer.js';
import type { SandboxDir } from '../state/sandbox-dir.js';
import type { StateWriter } from '../state/state-writer.js';
import type { SandboxStatus, StopResult } from '../state/types.js';
import { Alarm } from './alarm.js';
import type { InitExit, InitProcess } from './init.js';
import { type EndRequest, sandboxGone, stopReason, stopResult } from './stop-result.js';

const TAIL_BYTES = 16 * 1024;
/** How long a machine may outlive its agent before it is killed. */
const AGENT_LOST_MS = 5_000;

export interface LifecycleParts {
  name: string;
  machine: Machine;
  agent: AgentClient;
  directory: SandboxDir;
  state: StateWriter;
  /** Its end is that of the sandbox. */
  init?: InitProcess | undefined;
  /** `undefined`: nothing is logged. */
  logs: LogWriter | undefined;
  limits: {
    ephemeral: boolean;
    maxDurationMs?: number | undefined;
    idleTimeoutMs?: number | undefined;
  };
  /** Called when everything is gone, before anybody hears of it. */
  onReleased: () => Promise<void>;
}

export class Lifecycle {
  /** How the sandbox ended; everything that it held is gone by then. */
  readonly ended: Promise<StopResult>;
  readonly #parts: LifecycleParts;
  readonly #machine: Machine;
  readonly #idle: Alarm;
  readonly #oldAge: Alarm;
  #status: SandboxStatus = 'running';
  #request: EndRequest;
  #workload: InitExit | undefined;
  #draining = false;
  #users = 0;
  #agentLost = false;
  #pausing: Promise<void> = Promise.resolve();
  #consoleTail = '';
  #exitMessage = '';
  #isOver = false;

  constructor(parts: LifecycleParts) {
    this.#parts = parts;
    this.#machine = parts.machine;
    this.#machine.onPowerOff((timeoutMs) => this.#powerOff(timeoutMs));
    this.ended = this.#machine.waitUntilStopped().then((exit) => this.#release(exit));
    const over = (): void => {
      this.#isOver = true;
    };
    // Whoever stops, closes or waits gets the error.
    this.ended.then(over, over);
    const { idleTimeoutMs, maxDurationMs } = parts.limits;
    this.#idle = new Alarm(idleTimeoutMs, () => this.#endBy('idle_timeout'));
    this.#oldAge = new Alarm(maxDurationMs, () => this.#endBy('max_duration'));
    this.#idle.set();
    this.#oldAge.set();
    parts.state.set('running');
    void this.#watchAgent();
    void this.#watchInit();
  }

  get status(): SandboxStatus {
    return this.#status;
  }

  /** It can be looked at and has not begun to end. */
  get isUp(): boolean {
    return this.#machine.exit === undefined;
  }

  /** It has ended, and nothing that it held is left. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /**
   * Says that something goes on in the sandbox: it is not idle, and a drain waits for it, until
   * the function that is returned is called.
   */
  begin(): () => void {
    this.requireRunning();
    this.#users += 1;
    this.#idle.clear();
    let over = false;
    return () => {
      if (over) return;
      over = true;
      this.#users -= 1;
      if (this.#users > 0) return;
      if (this.#draining) this.#endBy('drained');
      else if (this.#status === 'running') this.#idle.set();
    };
  }

  /** Throws unless new things may be started. */
  requireRunning(): void {
    if (this.#status === 'running') return;
    const { name } = this.#parts;
    const context = { name, status: this.#status };
    if (this.#status === 'draining') {
      throw new SandboxError(
        'ERR_SANDBOX_DRAINING',
        `the sandbox "${name}" is about to end and takes nothing new. Use another`,
        { context },
      );
    }
    const cure = this.#status === 'paused' ? 'resume it' : 'start it, or create another';
    throw new SandboxError(
      'ERR_SANDBOX_NOT_RUNNING',
      `the sandbox "${name}" is ${this.#status}; ${cure}`,
      { context },
    );
  }

  async pause(): Promise<void> {
    if (this.#status === 'paused') return;
    this.requireRunning();
    await this.#inTurn(async () => {
      if (this.#status !== 'running') return;
      await this.#machine.pause();
      this.#change('running', 'paused');
      this.#idle.clear();
    });
  }

  async resume(): Promise<void> {
    if (this.#status !== 'paused') this.requireRunning();
    await this.#inTurn(async () => {
      if (this.#status !== 'paused') return;
      await this.#machine.resume();
      this.#change('paused', 'running');
      if (this.#users === 0) this.#idle.set();
    });
  }

  /** Runs `look` while the CPUs stand still; afterwards it is what it was. */
  async still<Value>(look: () => Promise<Value>): Promise<Value> {
    if (this.#status !== 'paused') this.requireRunning();
    return this.#inTurn(async () => {
      if (this.#status === 'paused') return look();
      this.requireRunning();
      await this.#machine.pause();
      try {
        return await look();
      } finally {
        if (this.isUp) await this.#machine.resume();
      }
    });
  }

  async stop(input: StopOptions | undefined): Promise<StopResult> {
    const options = parseStopOptions(input);
    await this.#stop('stop', options);
    return this.ended;
  }

  async kill(input: StopOptions | undefined): Promise<StopResult> {
    const { signal } = parseStopOptions(input);
    if (this.isUp) {
      this.#ending('kill');
      await abortable(this.#machine.kill(), signal, 'killing the sandbox');
    }
    return this.ended;
  }

  /** Writes of a sandbox that is kept must not be lost; nobody will miss the others. */
  async close(): Promise<void> {
    if (this.#parts.limits.ephemeral) await this.kill(undefined);
    else await this.stop(undefined);
  }

  requestStop(): void {
    this.#endBy('stop');
  }

  requestKill(): void {
    this.kill(undefined).catch(() => {});
  }

  /** Ends the sandbox when nothing goes on in it any more; nothing new is begun. */
  requestDrain(): void {
    if (!this.isUp || this.#draining || this.#request !== undefined) return;
    this.requireRunning();
    this.#draining = true;
    this.#idle.clear();
    this.#set('draining');
    if (this.#users === 0) this.#endBy('drained');
  }

  waitUntilStopped(signal: AbortSignal | undefined): Promise<StopResult> {
    return abortable(this.ended, signal, 'waiting for the sandbox');
  }

  /** The error for what was lost: the end of the sandbox says more than a connection's. */
  async explain(error: unknown): Promise<unknown> {
    // The end of a machine closes its connections first; its reason comes a moment later.
    const ending = this.ended.catch(() => undefined);
    await waitFor(ending, { what: 'the end', timeoutMs: AGENT_LOST_MS });
    if (this.#agentLost || !this.isUp) await ending;
    const { exit } = this.#machine;
    if (exit === undefined) return error;
    const result = stopResult(this.#parts.name, stopReason(exit, this.#request));
    return sandboxGone(result, this.#consoleTail, this.#exitMessage);
  }

  async #stop(request: EndRequest, options: StopOptions): Promise<void> {
    if (!this.isUp) return;
    this.#ending(request);
    // A pause on its way would hold up the guest's end.
    await this.#pausing;
    await this.#machine.stop(options);
  }

  /** For whoever does not wait: the end tells how it went. */
  #endBy(request: EndRequest): void {
    this.#stop(request, {}).catch(() => {});
  }

  #ending(request: EndRequest): void {
    if (this.#request === undefined) this.#parts.logs?.system('debug', `to end: ${request}`);
    this.#request ??= request;
    this.#idle.clear();
    this.#oldAge.clear();
    this.#set('draining');
  }

  /** One pause or resume after the other. */
  #inTurn<Value>(run: () => Promise<Value>): Promise<Value> {
    const turn = this.#pausing.then(run);
    this.#pausing = turn.then(
      () => {},
      () => {},
    );
    return turn;
  }

  #change(from: SandboxStatus, to: SandboxStatus): void {
    if (this.#status === from) this.#set(to);
  }

  #set(status: SandboxStatus): void {
    if (this.#status === status) return;
    this.#status = status;
    this.#parts.state.set(status);
    this.#parts.logs?.system('info', status);
  }

  async #powerOff(timeoutMs: number): Promise<void> {
    // The other half is for the guest to sync, unmount and go.
    await this.#parts.agent.powerOff(Math.floor(timeoutMs / 2), { timeoutMs });
  }

  /** A machine without its agent is of no use to anybody. */
  async #watchAgent(): Promise<void> {
    await this.#parts.agent.closed;
    this.#agentLost = true;
    const ended = this.ended.catch(() => undefined);
    const over = this.#request !== undefined || !this.isUp;
    if (over || (await waitFor(ended, { what: 'the end', timeoutMs: AGENT_LOST_MS }))) return;
    this.#request ??= 'agent_lost';
    await this.#machine.kill().catch(() => {});
  }

  async #watchInit(): Promise<void> {
    this.#workload = await this.#parts.init?.ended;
    if (this.#workload !== undefined) this.#endBy('completed');
  }

  #logEnd({ status, reason }: StopResult, exit: MachineExit): void {
    const { logs } = this.#parts;
    const crashed = status === 'crashed';
    logs?.system(crashed ? 'error' : 'info', `${status} (${reason}): ${exit.message}`);
    if (this.#consoleTail === '') return;
    logs?.system(crashed ? 'error' : 'debug', `the console ends with:\n${this.#consoleTail}`);
  }

  /** The machine has ended: nothing of it stays but what is to be kept on disk. */
  async #release(exit: MachineExit): Promise<StopResult> {
    const { name, agent, directory, state, logs, limits, onReleased } = this.#parts;
    const result = stopResult(name, stopReason(exit, this.#request), this.#workload);
    this.#consoleTail = this.#machine.consoleTail(TAIL_BYTES);
    this.#exitMessage = exit.message;
    this.#status = result.status;
    this.#idle.clear();
    this.#oldAge.clear();
    agent.close();
    this.#logEnd(result, exit);
    try {
      await this.#machine.close();
      await logs?.close();
      state.set(result.status, result);
      // A record that is about to be removed need not be right.
      await state.flush().catch(limits.ephemeral ? () => {} : undefined);
      if (limits.ephemeral) await directory.remove();
    } finally {
      await directory.release();
      await onReleased();
    }
    return result;
  }
}
