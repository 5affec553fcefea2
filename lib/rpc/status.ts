/** Status numbers of google.rpc.Status and the codes of our errors. */
import { type CodeOf, RpcError } from '../errors.js';

export const status = {
  ok: 0,
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  outOfRange: 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  dataLoss: 15,
  unauthenticated: 16,
} as const;

const codes: readonly CodeOf<'RpcError'>[] = [
  'ERR_RPC_CANCELLED',
  'ERR_RPC_UNKNOWN',
  'ERR_RPC_INVALID_ARGUMENT',
  'ERR_RPC_DEADLINE_EXCEEDED',
  'ERR_RPC_NOT_FOUND',
  'ERR_RPC_ALREADY_EXISTS',
  'ERR_RPC_PERMISSION_DENIED',
  'ERR_RPC_RESOURCE_EXHAUSTED',
  'ERR_RPC_FAILED_PRECONDITION',
  'ERR_RPC_ABORTED',
  'ERR_RPC_OUT_OF_RANGE',
  'ERR_RPC_UNIMPLEMENTED',
  'ERR_RPC_INTERNAL',
  'ERR_RPC_UNAVAILABLE',
  'ERR_RPC_DATA_LOSS',
  'ERR_RPC_UNAUTHENTICATED',
];

/** Peers are guests: what they call an error message is cut to this. */
const MAX_MESSAGE = 1024;

/** The error for a status that a peer answered. Numbers that the protocol lacks are `unknown`. */
export function errorFromStatus(number: number, message: string, call: string): RpcError {
  const code = codes[number - 1] ?? 'ERR_RPC_UNKNOWN';
  const text = message === '' ? 'no message' : message.slice(0, MAX_MESSAGE);
  return new RpcError(code, `${call}: ${text}`, { status: number, context: { call } });
}

/** The status number with which a failed handler answers. */
export function statusOf(error: unknown): number {
  if (!(error instanceof RpcError)) return status.unknown;
  if (error.status !== undefined) return error.status;
  const index = codes.indexOf(error.code);
  return index === -1 ? status.unknown : index + 1;
}
