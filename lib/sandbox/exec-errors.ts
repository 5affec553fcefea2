/** The errors of a command. */
import { ExecError, type ExecFailureKind, type RpcError } from '../errors.js';
import { status } from '../rpc/status.js';
import { errnoName } from './signals.js';

/** What ended a command before its time. */
export type LimitKind = 'timeout' | 'abort' | 'stdin';

const reasons: Readonly<Record<ExecFailureKind, string>> = {
  not_found: 'no such program',
  permission_denied: 'permission denied',
  not_executable: 'it is not executable',
  bad_cwd: 'its working directory cannot be entered',
  bad_user: 'there is no such user or group',
  resource_limit: 'a limit of the guest was reached',
  out_of_memory: 'the guest is out of memory',
  pty_failed: 'no terminal could be made',
  bad_request: 'the agent does not accept the request',
  unknown: 'the agent gave no reason',
};

/** The agent could not start the program. */
export function failedToStart(
  file: string,
  failure: { kind: ExecFailureKind; errno: number; message: string },
): ExecError {
  const { kind, message } = failure;
  const errno = errnoName(failure.errno);
  const detail = message === '' ? '' : ` (${message})`;
  return new ExecError(
    'ERR_EXEC_FAILED',
    `cannot start ${JSON.stringify(file)}: ${reasons[kind]}${detail}`,
    { kind, errno, context: { file, kind } },
  );
}

/** The agent refused the call as a whole. */
export function refusedByAgent(file: string, cause: RpcError): ExecError {
  const kind = cause.status === status.resourceExhausted ? 'resource_limit' : 'bad_request';
  return new ExecError(
    'ERR_EXEC_FAILED',
    `cannot start ${JSON.stringify(file)}: ${reasons[kind]} (${cause.message})`,
    { kind, cause, context: { file, kind } },
  );
}

/** It was asked to do what only a terminal can. */
export function withoutTerminal(file: string): ExecError {
  return new ExecError(
    'ERR_NOT_A_TERMINAL',
    `${JSON.stringify(file)} has no terminal that could be resized; run it with "tty: true"`,
    { context: { file } },
  );
}

/** We ended the program. */
export function limitError(
  kind: LimitKind,
  file: string,
  result: unknown,
  details: { timeoutMs?: number | undefined; cause?: unknown },
): ExecError {
  const name = JSON.stringify(file);
  const options = { result, cause: details.cause, context: { file } };
  switch (kind) {
    case 'timeout':
      return new ExecError(
        'ERR_EXEC_TIMEOUT',
        `${name} ran longer than ${details.timeoutMs} ms and was killed`,
        { ...options, context: { file, timeoutMs: details.timeoutMs ?? 0 } },
      );
    case 'abort':
      return new ExecError('ERR_EXEC_ABORTED', `${name} was aborted and killed`, options);
    case 'stdin':
      return new ExecError(
        'ERR_EXEC_STDIN',
        `the source of stdin of ${name} failed, and the program was killed`,
        options,
      );
  }
}
