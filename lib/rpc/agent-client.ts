/** The guest agent's services in plain types: nothing above this file sees protobuf. */
import type { Duplex } from 'node:stream';
import { type ExecFailureKind, RpcError } from '../errors.js';
import { type CallOptions, TtrpcClient } from './client.js';
import {
  Agent,
  ExecEventSchema,
  ExecFailureKind as ExecFailureNumber,
  ExecRequestSchema,
  GetInfoRequestSchema,
  GetInfoResponseSchema,
  PowerOffRequestSchema,
  Process,
  SetUpRootRequestSchema,
  SignalRequestSchema,
  SignalResponseSchema,
} from './gen/agent_pb.js';
import { create, fromBinary, toBinary } from './protobuf.js';
import type { TtrpcStream } from './stream.js';

/** Where the agent dials on the host, and where it listens in the guest. */
export const AGENT_PORT = 1024;
/** The agent takes no longer stdin messages. */
export const MAX_STDIN_BYTES: number = 64 * 1024;

export interface AgentInfo {
  agentVersion: string;
  kernelRelease: string;
  /** Guest time of the agent's first instruction and of its dial, in ns since boot. */
  startedNs: bigint;
  dialledNs: bigint;
}

export interface GuestMount {
  source: string;
  fstype: string;
  data?: string;
  readOnly?: boolean;
}

export interface OverlayRoot {
  lower: GuestMount;
  /** Absent: writes go to memory. */
  upper?: GuestMount;
  growUpper?: boolean;
}

export interface ExecStart {
  execId: bigint;
  args: string[];
  env: string[];
  cwd?: string | undefined;
  user?: string | undefined;
  stdin: boolean;
}

export type AgentExecEvent =
  | { type: 'started'; pid: number }
  | { type: 'stdout' | 'stderr'; data: Uint8Array }
  | { type: 'exited'; exitCode: number | null; signal: number | null }
  | { type: 'failed'; kind: ExecFailureKind; errno: number; message: string };

/** Unary calls on the control channel. */
export class AgentClient {
  readonly #client: TtrpcClient;

  constructor(stream: Duplex) {
    this.#client = new TtrpcClient(stream);
  }

  /** Settles when the control channel is gone. */
  get closed(): Promise<RpcError> {
    return this.#client.closed;
  }

  async getInfo(options?: CallOptions): Promise<AgentInfo> {
    const request = toBinary(GetInfoRequestSchema, create(GetInfoRequestSchema));
    const payload = await this.#client.call(
      Agent.typeName,
      Agent.method.getInfo.name,
      request,
      options,
    );
    const { agentVersion, kernelRelease, startedNs, dialledNs } = decode(() =>
      fromBinary(GetInfoResponseSchema, payload),
    );
    return { agentVersion, kernelRelease, startedNs, dialledNs };
  }

  async setUpRoot(root: OverlayRoot, hostname: string, options?: CallOptions): Promise<void> {
    const request = create(SetUpRootRequestSchema, {
      root: {
        case: 'overlay',
        value: {
          lower: root.lower,
          ...(root.upper === undefined ? {} : { upper: root.upper }),
          growUpper: root.growUpper ?? false,
        },
      },
      hostname,
    });
    const payload = toBinary(SetUpRootRequestSchema, request);
    await this.#client.call(Agent.typeName, Agent.method.setUpRoot.name, payload, options);
  }

  /** Ends every process within the grace, syncs and powers off. Answered before the end. */
  async powerOff(graceMs: number, options?: CallOptions): Promise<void> {
    const payload = toBinary(PowerOffRequestSchema, create(PowerOffRequestSchema, { graceMs }));
    await this.#client.call(Agent.typeName, Agent.method.powerOff.name, payload, options);
  }

  /** False when the process had already ended. */
  async signal(
    execId: bigint,
    signal: number,
    group: boolean,
    options?: CallOptions,
  ): Promise<boolean> {
    const request = toBinary(
      SignalRequestSchema,
      create(SignalRequestSchema, { execId, signal, group }),
    );
    const payload = await this.#client.call(
      Process.typeName,
      Process.method.signal.name,
      request,
      options,
    );
    return decode(() => fromBinary(SignalResponseSchema, payload)).delivered;
  }

  close(): void {
    this.#client.close();
  }
}

/** One process and its stdio on a connection of its own. */
export class ExecChannel {
  readonly #client: TtrpcClient;
  readonly #stream: TtrpcStream;

  private constructor(client: TtrpcClient, stream: TtrpcStream) {
    this.#client = client;
    this.#stream = stream;
  }

  /** Asks the agent to start a process; how that went is the first event. */
  static async start(connection: Duplex, start: ExecStart): Promise<ExecChannel> {
    const client = new TtrpcClient(connection);
    try {
      const stream = await client.openStream(Process.typeName, Process.method.exec.name);
      const { execId, args, env, stdin } = start;
      const value = {
        execId,
        args,
        env,
        stdin,
        ...(start.cwd === undefined ? {} : { cwd: start.cwd }),
        ...(start.user === undefined ? {} : { user: start.user }),
      };
      await stream.send(request({ case: 'start', value }));
      if (!stdin) await stream.closeSend();
      return new ExecChannel(client, stream);
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** At most {@link MAX_STDIN_BYTES}. Resolves when more can be taken. */
  async writeStdin(data: Uint8Array): Promise<void> {
    await this.#stream.send(request({ case: 'stdin', value: data }));
  }

  async closeStdin(): Promise<void> {
    await this.#stream.send(request({ case: 'stdinClose', value: true }));
    await this.#stream.closeSend();
  }

  /** The next event, or `undefined` when the agent has no more to say. */
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

type RequestCase = Parameters<typeof create<typeof ExecRequestSchema>>[1] extends infer Init
  ? Init extends { request?: infer Case }
    ? Case
    : never
  : never;

function request(value: NonNullable<RequestCase>): Uint8Array {
  return toBinary(ExecRequestSchema, create(ExecRequestSchema, { request: value }));
}

function toEvent(message: Uint8Array): AgentExecEvent | undefined {
  const { event } = decode(() => fromBinary(ExecEventSchema, message));
  switch (event.case) {
    case 'started':
      return { type: 'started', pid: event.value.pid };
    case 'stdout':
    case 'stderr':
      return event.value.length === 0 ? undefined : { type: event.case, data: own(event.value) };
    case 'exited': {
      const { status } = event.value;
      return {
        type: 'exited',
        exitCode: status.case === 'signal' ? null : (status.value ?? 0),
        signal: status.case === 'signal' ? status.value : null,
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

/** A few bytes must not keep a large buffer alive: a guest could send a million of them. */
function own(data: Uint8Array): Uint8Array {
  return data.byteLength * 2 < data.buffer.byteLength ? Uint8Array.from(data) : data;
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
};

function decode<Message>(read: () => Message): Message {
  try {
    return read();
  } catch (cause) {
    throw new RpcError('ERR_RPC_PROTOCOL', 'the agent sent a message that is not protobuf', {
      cause,
    });
  }
}
