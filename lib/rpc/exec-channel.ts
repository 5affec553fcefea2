/** One process in the guest with its stdio, on a connection of its own. */
import type { Duplex } from 'node:stream';
import { type ExecFailureKind, RpcError } from '../errors.js';
import { TtrpcClient } from './client.js';
import { decode, encode, own } from './codec.js';
import { ExecEvent, ExecFailureKind as ExecFailureNumber, ExecRequest } from './gen/agent_pb.js';
import type { TtrpcStream } from './stream.js';

/** The agent takes no longer stdin messages. */
export const MAX_STDIN_BYTES: number = 64 * 1024;

export interface ExecStart {
  execId: bigint;
  args: string[];
  env: string[];
  cwd?: string | undefined;
  user?: string | undefined;
  stdin: boolean;
  rlimits?: { resource: number; soft: bigint; hard: bigint }[];
  /** Fewer capabilities, and none to gain. */
  restricted?: boolean;
  /** Becomes PID 1 of the namespaces of all later processes. */
  init?: boolean;
  /** Instead of pipes; `stream` names a raw stream that is open. */
  terminal?: { rows: number; cols: number; stream: string } | undefined;
}

export type AgentExecEvent =
  | { type: 'started'; pid: number }
  | { type: 'stdout' | 'stderr'; data: Uint8Array }
  | { type: 'exited'; exitCode: number | null; signal: number | null }
  | { type: 'failed'; kind: ExecFailureKind; errno: number; message: string };

/** How a command is talked to. */
export interface CommandChannel {
  /** The next event, or `undefined` when the agent has no more to say. */
  receive(): Promise<AgentExecEvent | undefined>;
  /** At most {@link MAX_STDIN_BYTES}. Resolves when more can be taken. */
  writeStdin(data: Uint8Array): Promise<void>;
  closeStdin(): Promise<void>;
  close(): void;
}

/** One process and its stdio on a connection of its own. */
export class ExecChannel implements CommandChannel {
  readonly #client: TtrpcClient;
  readonly #stream: TtrpcStream;

  private constructor(client: TtrpcClient, stream: TtrpcStream) {
    this.#client = client;
    this.#stream = stream;
  }

  /** Asks the agent to start a process; how that went is the first event. */
  static async start(connection: Duplex, start: ExecStart): Promise<ExecChannel> {
    const value = {
      ...start,
      cwd: start.cwd ?? '',
      user: start.user ?? '',
      terminal: start.terminal,
      rlimits: start.rlimits ?? [],
      restricted: start.restricted ?? false,
      init: start.init ?? false,
    };
    return ExecChannel.#open(connection, { $case: 'start', value }, start.stdin);
  }

  /** Goes on with the init of a guest that a snapshot was taken of, from where it was. */
  static async takeUp(connection: Duplex, execId: bigint): Promise<ExecChannel> {
    return ExecChannel.#open(connection, { $case: 'takeUp', value: execId }, false);
  }

  static async #open(
    connection: Duplex,
    request: ExecRequest['request'],
    stdin: boolean,
  ): Promise<ExecChannel> {
    const client = new TtrpcClient(connection);
    try {
      const stream = await client.openStream('embervm.agent.v1.Process', 'Exec');
      await stream.send(encode(ExecRequest, { request }));
      if (!stdin) await stream.closeSend();
      return new ExecChannel(client, stream);
    } catch (error) {
      client.close();
      throw error;
    }
  }

  async writeStdin(data: Uint8Array): Promise<void> {
    await this.#stream.send(encode(ExecRequest, { request: { $case: 'stdin', value: data } }));
  }

  async closeStdin(): Promise<void> {
    const request = { $case: 'stdinClose', value: true } as const;
    await this.#stream.send(encode(ExecRequest, { request }));
    await this.#stream.closeSend();
  }

  async receive(): Promise<AgentExecEvent | undefined> {
    for (;;) {
      const message = await this.#stream.receive();
      if (message === undefined) return undefined;
      const event = toEvent(message);
      if (event !== undefined) return event;
    }
  }

  close(): void {
    this.#stream.cancel();
    this.#client.close();
  }
}

function toEvent(message: Uint8Array): AgentExecEvent | undefined {
  const { event } = decode(ExecEvent, message, 'an event of the agent');
  switch (event?.$case) {
    case 'started':
      return { type: 'started', pid: event.value.pid };
    case 'stdout':
    case 'stderr':
      return event.value.length === 0 ? undefined : { type: event.$case, data: own(event.value) };
    case 'exited': {
      const { status } = event.value;
      return {
        type: 'exited',
        exitCode: status?.$case === 'signal' ? null : (status?.value ?? 0),
        signal: status?.$case === 'signal' ? status.value : null,
      };
    }
    case 'failed': {
      const { kind, errno, message: text } = event.value;
      return { type: 'failed', kind: failureKinds[kind] ?? 'unknown', errno, message: text };
    }
    default:
      throw new RpcError('ERR_RPC_PROTOCOL', 'the agent sent an event of no known kind');
  }
}

const failureKinds: Readonly<Record<number, ExecFailureKind>> = {
  [ExecFailureNumber.NOT_FOUND]: 'not_found',
  [ExecFailureNumber.PERMISSION_DENIED]: 'permission_denied',
  [ExecFailureNumber.NOT_EXECUTABLE]: 'not_executable',
  [ExecFailureNumber.BAD_CWD]: 'bad_cwd',
  [ExecFailureNumber.BAD_USER]: 'bad_user',
  [ExecFailureNumber.RESOURCE_LIMIT]: 'resource_limit',
  [ExecFailureNumber.OUT_OF_MEMORY]: 'out_of_memory',
  [ExecFailureNumber.BAD_REQUEST]: 'bad_request',
  [ExecFailureNumber.PTY_FAILED]: 'pty_failed',
};
