/**
 * The agent's end of Process.Exec, played by a function, over a real socket:
 * for what a real guest does only by accident, such as dying at a given byte.
 */
import type { Socket } from 'node:net';
import { ExecChannel, type ExecStart as Start } from '../../lib/rpc/exec-channel.js';
import {
  ExecEvent,
  type ExecExited,
  ExecRequest,
  type ExecStart,
} from '../../lib/rpc/gen/agent_pb.js';
import { TtrpcServer } from '../../lib/rpc/server.js';
import type { TtrpcStream } from '../../lib/rpc/stream.js';
import type { ExecHost } from '../../lib/sandbox/execution.js';
import { socketPair } from './socket-pair.js';

type Event = ExecEvent['event'];

/** What a script can do. */
export class AgentSide {
  readonly start: ExecStart;
  readonly socket: Socket;
  readonly #stream: TtrpcStream;
  readonly #signals: number[];
  #wake = (): void => {};

  constructor(start: ExecStart, stream: TtrpcStream, socket: Socket, signals: number[]) {
    this.start = start;
    this.socket = socket;
    this.#stream = stream;
    this.#signals = signals;
  }

  async send(event: Event): Promise<void> {
    await this.#stream.send(ExecEvent.encode({ event }).finish());
  }

  started(pid = 7): Promise<void> {
    return this.send({ $case: 'started', value: { pid } });
  }

  stdout(data: Uint8Array | string): Promise<void> {
    return this.send({ $case: 'stdout', value: Buffer.from(data) });
  }

  stderr(data: Uint8Array | string): Promise<void> {
    return this.send({ $case: 'stderr', value: Buffer.from(data) });
  }

  exit(exitCode: number): Promise<void> {
    return this.#exited({ $case: 'exitCode', value: exitCode });
  }

  exitBy(signal: number): Promise<void> {
    return this.#exited({ $case: 'signal', value: signal });
  }

  #exited(status: ExecExited['status']): Promise<void> {
    return this.send({ $case: 'exited', value: { status, outputHeld: false } });
  }

  /** The next piece of stdin; `undefined` when it was closed. */
  async stdin(): Promise<Uint8Array | undefined> {
    const message = await this.#stream.receive();
    if (message === undefined) return undefined;
    const { request } = ExecRequest.decode(message);
    return request?.$case === 'stdin' ? request.value : undefined;
  }

  /** The next signal that was sent to the process. */
  async signal(): Promise<number> {
    for (;;) {
      const signal = this.#signals.shift();
      if (signal !== undefined) return signal;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  deliver(signal: number): void {
    this.#signals.push(signal);
    this.#wake();
  }
}

export type Script = (agent: AgentSide) => Promise<void>;

/** Runs `script` for every command. */
export class ScriptedHost implements ExecHost {
  readonly #script: Script;
  readonly #agents = new Map<bigint, AgentSide>();
  readonly sockets: Socket[] = [];
  connectDelay: Promise<void> | undefined;
  #lastExecId = 0n;

  constructor(script: Script) {
    this.#script = script;
  }

  nextExecId(): bigint {
    this.#lastExecId += 1n;
    return this.#lastExecId;
  }

  async open(start: Start, signal: AbortSignal): Promise<ExecChannel> {
    await this.connectDelay;
    signal.throwIfAborted();
    const [near, far] = await socketPair();
    this.sockets.push(near, far);
    new TtrpcServer(far, {
      'embervm.agent.v1.Process': { Exec: { stream: (stream) => this.#serve(stream, far) } },
    });
    return ExecChannel.start(near, start);
  }

  /** Terminals need a raw stream, which only a guest has. */
  async resize(): Promise<void> {
    throw new Error('no terminals here');
  }

  async signal(execId: bigint, signal: number): Promise<void> {
    this.#agents.get(execId)?.deliver(signal);
  }

  log(): undefined {
    return undefined;
  }

  closed(execId: bigint): void {
    this.#agents.delete(execId);
  }

  async explain(error: unknown): Promise<unknown> {
    return error;
  }

  async #serve(stream: TtrpcStream, socket: Socket): Promise<void> {
    const first = await stream.receive();
    const { request } = ExecRequest.decode(first ?? new Uint8Array());
    if (request?.$case !== 'start') throw new Error(`the first request was ${request?.$case}`);
    const agent = new AgentSide(request.value, stream, socket, []);
    this.#agents.set(request.value.execId, agent);
    await this.#script(agent);
  }
}
