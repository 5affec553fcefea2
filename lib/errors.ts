/**
 * Every failure that embervm reports: one table of codes, one class per family.
 * `docs/errors.md` has an entry for each code, and a test keeps the two together.
 */

/** Codes and the class that carries each. Codes are stable; messages are not. */
export const errorTable = {
  ERR_INVALID_CONFIG: 'ConfigError',
  ERR_UNSUPPORTED: 'ConfigError',
  ERR_COMMAND_LINE_TOO_LONG: 'ConfigError',
  ERR_NO_DEFAULT_COMMAND: 'ConfigError',

  ERR_NATIVE_MISSING: 'HostError',
  ERR_ASSET_MISSING: 'HostError',
  ERR_ASSET_INVALID: 'HostError',
  ERR_STATE_DIR: 'HostError',
  ERR_STATE_KEY: 'HostError',
  ERR_STATE_CORRUPT: 'HostError',
  ERR_KVM_UNAVAILABLE: 'HostError',
  ERR_KVM_ACCESS: 'HostError',
  ERR_KVM_API_VERSION: 'HostError',
  ERR_KVM_IOCTL: 'HostError',
  ERR_RESOURCE_LIMIT: 'HostError',
  ERR_OUT_OF_MEMORY: 'HostError',

  ERR_KERNEL_NOT_FOUND: 'MachineError',
  ERR_KERNEL_INVALID: 'MachineError',
  ERR_KERNEL_TOO_LARGE: 'MachineError',
  ERR_DRIVE_NOT_FOUND: 'MachineError',
  ERR_DRIVE_ACCESS: 'MachineError',
  ERR_DRIVE_BUSY: 'MachineError',
  ERR_DRIVE_INVALID: 'MachineError',
  ERR_SHARED_DIR_NOT_FOUND: 'MachineError',
  ERR_SHARED_DIR_ACCESS: 'MachineError',
  ERR_SHARED_DIR_INVALID: 'MachineError',
  ERR_NO_FREE_SLOT: 'MachineError',
  ERR_DEVICE_EXISTS: 'MachineError',
  ERR_DEVICE_NOT_FOUND: 'MachineError',
  ERR_DEVICE_IN_USE: 'MachineError',
  ERR_GUEST_NO_DRIVER: 'MachineError',
  ERR_GUEST_HOTPLUG: 'MachineError',
  ERR_VIRTIO_QUEUE: 'MachineError',
  ERR_VSOCK_LIMIT: 'MachineError',
  ERR_VSOCK_REFUSED: 'MachineError',
  ERR_VSOCK_RESET: 'MachineError',
  ERR_VSOCK_TIMEOUT: 'MachineError',
  ERR_EMULATION_FAILURE: 'MachineError',
  ERR_GUEST_ADDRESS: 'MachineError',
  ERR_GUEST_PANIC: 'MachineError',
  ERR_MACHINE_FAULT: 'MachineError',
  ERR_MACHINE_STATE: 'MachineError',
  ERR_SNAPSHOT_NOT_FOUND: 'MachineError',
  ERR_SNAPSHOT_READ: 'MachineError',
  ERR_SNAPSHOT_WRITE: 'MachineError',
  ERR_SNAPSHOT_BUSY: 'MachineError',
  ERR_SNAPSHOT_EXISTS: 'MachineError',
  ERR_SNAPSHOT_INVALID: 'MachineError',
  ERR_SNAPSHOT_VERSION: 'MachineError',
  ERR_SNAPSHOT_HOST: 'MachineError',
  ERR_SNAPSHOT_MISMATCH: 'MachineError',
  ERR_SNAPSHOT_UNSUPPORTED: 'MachineError',
  ERR_MACHINE_CLOSED: 'MachineError',

  ERR_SANDBOX_EXISTS: 'SandboxError',
  ERR_SANDBOX_NOT_FOUND: 'SandboxError',
  ERR_SANDBOX_NOT_RUNNING: 'SandboxError',
  ERR_SANDBOX_NOT_OWNER: 'SandboxError',
  ERR_SANDBOX_STILL_RUNNING: 'SandboxError',
  ERR_SANDBOX_DRAINING: 'SandboxError',
  ERR_LOG_CURSOR: 'SandboxError',
  ERR_SANDBOX_CRASHED: 'SandboxError',
  ERR_FACTORY_CLOSED: 'SandboxError',
  ERR_SANDBOX_STOPPED: 'SandboxError',
  ERR_PATCH_FAILED: 'SandboxError',
  ERR_MOUNT_FAILED: 'SandboxError',
  ERR_BOOT_FAILED: 'SandboxError',
  ERR_BOOT_TIMEOUT: 'SandboxError',

  ERR_EXEC_FAILED: 'ExecError',
  ERR_EXEC_TIMEOUT: 'ExecError',
  ERR_EXEC_ABORTED: 'ExecError',
  ERR_EXEC_STDIN: 'ExecError',
  ERR_NOT_A_TERMINAL: 'ExecError',
  ERR_TERMINAL: 'ExecError',

  ERR_FILE_NOT_FOUND: 'FileError',
  ERR_FILE_EXISTS: 'FileError',
  ERR_FILE_NOT_EMPTY: 'FileError',
  ERR_FILE_NOT_DIRECTORY: 'FileError',
  ERR_FILE_IS_DIRECTORY: 'FileError',
  ERR_FILE_ACCESS: 'FileError',
  ERR_FILE_NO_SPACE: 'FileError',
  ERR_FILE_SPECIAL: 'FileError',
  ERR_FILE_ESCAPE: 'FileError',
  ERR_FILE_LIMIT: 'FileError',
  ERR_FILE_FAILED: 'FileError',

  ERR_IMAGE_INVALID: 'ImageError',
  ERR_IMAGE_LIMIT: 'ImageError',
  ERR_IMAGE_READ: 'ImageError',
  ERR_IMAGE_WRITE: 'ImageError',
  ERR_IMAGE_NOT_FOUND: 'ImageError',
  ERR_IMAGE_IN_USE: 'ImageError',
  ERR_IMAGE_DIGEST: 'ImageError',
  ERR_IMAGE_SIZE: 'ImageError',
  ERR_IMAGE_REFERENCE: 'ImageError',
  ERR_IMAGE_AUTH: 'ImageError',
  ERR_IMAGE_MEDIA_TYPE: 'ImageError',
  ERR_IMAGE_PLATFORM: 'ImageError',
  ERR_REGISTRY_UNAVAILABLE: 'ImageError',
  ERR_REGISTRY_RATE_LIMIT: 'ImageError',
  ERR_REGISTRY_PROTOCOL: 'ImageError',
  ERR_REGISTRY_CREDENTIALS: 'ImageError',

  ERR_VOLUME_NOT_FOUND: 'VolumeError',
  ERR_VOLUME_EXISTS: 'VolumeError',
  ERR_VOLUME_IN_USE: 'VolumeError',

  ERR_NEED_SANDBOX_ID: 'VirtcontainersError',
  ERR_NEED_CONTAINER_ID: 'VirtcontainersError',
  ERR_INVALID_STATE: 'VirtcontainersError',
  ERR_CONTAINER_NOT_FOUND: 'VirtcontainersError',
  ERR_CONTAINER_EXISTS: 'VirtcontainersError',
  ERR_ANNOTATION_NOT_FOUND: 'VirtcontainersError',
  ERR_SANDBOX_BUSY: 'VirtcontainersError',
  ERR_HELPER_FAILED: 'VirtcontainersError',

  ERR_RPC_CANCELLED: 'RpcError',
  ERR_RPC_UNKNOWN: 'RpcError',
  ERR_RPC_INVALID_ARGUMENT: 'RpcError',
  ERR_RPC_DEADLINE_EXCEEDED: 'RpcError',
  ERR_RPC_NOT_FOUND: 'RpcError',
  ERR_RPC_ALREADY_EXISTS: 'RpcError',
  ERR_RPC_PERMISSION_DENIED: 'RpcError',
  ERR_RPC_RESOURCE_EXHAUSTED: 'RpcError',
  ERR_RPC_FAILED_PRECONDITION: 'RpcError',
  ERR_RPC_ABORTED: 'RpcError',
  ERR_RPC_OUT_OF_RANGE: 'RpcError',
  ERR_RPC_UNIMPLEMENTED: 'RpcError',
  ERR_RPC_INTERNAL: 'RpcError',
  ERR_RPC_UNAVAILABLE: 'RpcError',
  ERR_RPC_DATA_LOSS: 'RpcError',
  ERR_RPC_UNAUTHENTICATED: 'RpcError',
  ERR_RPC_CONNECTION_LOST: 'RpcError',
  ERR_RPC_PROTOCOL: 'RpcError',

  ERR_ABORTED: 'EmbervmError',
  ERR_INTERNAL: 'EmbervmError',
} as const;

export type ErrorCode = keyof typeof errorTable;
export type ErrorClassName = (typeof errorTable)[ErrorCode];
/** The codes of one class. */
export type CodeOf<Name extends ErrorClassName> = {
  [Code in ErrorCode]: (typeof errorTable)[Code] extends Name ? Code : never;
}[ErrorCode];

/** Facts about a failure, for logs and for programs. */
export type ErrorContext = Readonly<Record<string, string | number | boolean>>;

export interface ErrorOptions {
  cause?: unknown;
  /** Name of the errno, such as `ENOENT`. */
  errno?: string | undefined;
  /** The system call that failed. */
  syscall?: string | undefined;
  context?: ErrorContext | undefined;
}

const brandOf = (name: string): symbol => Symbol.for(`embervm.${name}`);

/** The base of every error. `instanceof` also holds across two copies of the package. */
export class EmbervmError extends Error {
  readonly code: ErrorCode;
  declare readonly errno?: string;
  declare readonly syscall?: string;
  readonly context: ErrorContext;

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.context = options.context ?? {};
    if (options.errno !== undefined) this.errno = options.errno;
    if (options.syscall !== undefined) this.syscall = options.syscall;
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: the class to the right of `instanceof` is meant.
    const brand = brands.get(this);
    // Only our own classes are branded; what a user derives from them is compared as usual.
    // biome-ignore lint/complexity/noThisInStatic: the class to the right of `instanceof` is meant.
    if (brand === undefined) return Function.prototype[Symbol.hasInstance].call(this, value);
    return typeof value === 'object' && value !== null && brand in value;
  }
}

/** An option is wrong, unknown or not built yet. */
export class ConfigError extends EmbervmError {
  declare readonly code: CodeOf<'ConfigError'>;
}

/** This host cannot do it: KVM, limits, or a part of the package is missing. */
export class HostError extends EmbervmError {
  declare readonly code: CodeOf<'HostError'>;
}

/** A virtual machine could not be built or did not stay up. */
export class MachineError extends EmbervmError {
  declare readonly code: CodeOf<'MachineError'>;
}

export interface SandboxErrorOptions extends ErrorOptions {
  reason?: string | undefined;
  consoleTail?: string | undefined;
  stage?: string | undefined;
  stages?: readonly FinishedStage[] | undefined;
}

/** A step of a boot that was done before another one failed. */
export interface FinishedStage {
  stage: string;
  durationMs: number;
}

/** A sandbox could not be created, or is not there any more. */
export class SandboxError extends EmbervmError {
  declare readonly code: CodeOf<'SandboxError'>;
  /** Why the guest ended, where it did. */
  declare readonly reason?: string;
  /** The last console output of a guest that died. */
  declare readonly consoleTail?: string;
  /** The stage of the boot that failed. */
  declare readonly stage?: string;
  /** The stages before it, in order, and how long they and the failed one took. */
  declare readonly stages?: readonly FinishedStage[];

  constructor(code: CodeOf<'SandboxError'>, message: string, options: SandboxErrorOptions = {}) {
    super(code, message, options);
    if (options.reason !== undefined) this.reason = options.reason;
    if (options.consoleTail !== undefined) this.consoleTail = options.consoleTail;
    if (options.stage !== undefined) this.stage = options.stage;
    if (options.stages !== undefined) this.stages = options.stages;
  }
}

/** Why a program could not be started. */
export type ExecFailureKind =
  | 'not_found'
  | 'permission_denied'
  | 'not_executable'
  | 'bad_cwd'
  | 'bad_user'
  | 'resource_limit'
  | 'out_of_memory'
  | 'pty_failed'
  | 'bad_request'
  | 'unknown';

export interface ExecErrorOptions<Result = unknown> extends ErrorOptions {
  kind?: ExecFailureKind | undefined;
  result?: Result | undefined;
}

/** A program was not started, or was not left to end by itself. */
export class ExecError<Result = unknown> extends EmbervmError {
  declare readonly code: CodeOf<'ExecError'>;
  declare readonly kind?: ExecFailureKind;
  /** What was captured before a timeout or an abort, in the shape of a success. */
  declare readonly result?: Result;

  constructor(code: CodeOf<'ExecError'>, message: string, options: ExecErrorOptions<Result> = {}) {
    super(code, message, options);
    if (options.kind !== undefined) this.kind = options.kind;
    if (options.result !== undefined) this.result = options.result;
  }
}

export interface FileErrorOptions extends ErrorOptions {
  path?: string | undefined;
}

/** A file of the guest, or of the host where one is copied, could not be dealt with. */
export class FileError extends EmbervmError {
  declare readonly code: CodeOf<'FileError'>;
  /** The file that it is about: in a tree, the one where it failed. */
  declare readonly path?: string;

  constructor(code: CodeOf<'FileError'>, message: string, options: FileErrorOptions = {}) {
    super(code, message, options);
    if (options.path !== undefined) this.path = options.path;
  }
}

/** An image could not be found, fetched or made of its layers. */
export class ImageError extends EmbervmError {
  declare readonly code: CodeOf<'ImageError'>;
}

/** A volume is not there, or somebody uses it. */
export class VolumeError extends EmbervmError {
  declare readonly code: CodeOf<'VolumeError'>;
}

/** A sandbox or container of `embervm/virtcontainers` is not there, or not in the right state. */
export class VirtcontainersError extends EmbervmError {
  declare readonly code: CodeOf<'VirtcontainersError'>;
}

export interface RpcErrorOptions extends ErrorOptions {
  status?: number | undefined;
}

/** A call to the guest's agent failed. */
export class RpcError extends EmbervmError {
  declare readonly code: CodeOf<'RpcError'>;
  /** The status number of the protocol, where the peer sent one. */
  declare readonly status?: number;

  constructor(code: CodeOf<'RpcError'>, message: string, options: RpcErrorOptions = {}) {
    super(code, message, options);
    if (options.status !== undefined) this.status = options.status;
  }
}

type ErrorClass = new (code: never, message: string, options?: ErrorOptions) => EmbervmError;

const classes: Readonly<Record<ErrorClassName, ErrorClass>> = {
  EmbervmError,
  ConfigError,
  HostError,
  MachineError,
  SandboxError,
  ExecError,
  FileError,
  ImageError,
  VolumeError,
  VirtcontainersError,
  RpcError,
};

const brands = new Map<unknown, symbol>();
for (const [name, type] of Object.entries(classes)) {
  const brand = brandOf(name);
  brands.set(type, brand);
  Object.defineProperty(type.prototype, 'name', {
    value: name,
    configurable: true,
    writable: true,
  });
  Object.defineProperty(type.prototype, brand, { value: true });
}

/** True for a code of the table. */
export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(errorTable, code);
}

/** Makes the error of the class that the table gives to `code`. */
export function createError(
  code: ErrorCode,
  message: string,
  options?: ErrorOptions,
): EmbervmError {
  const type = classes[errorTable[code]];
  return new type(code as never, message, options);
}

/** The typed form of a failure of the addon, by its `code` alone. */
export function fromNative(error: unknown): EmbervmError {
  if (error instanceof EmbervmError) return error;
  const { code, errno, syscall, context, message } = toNativeFields(error);
  if (!isErrorCode(code)) {
    return createError('ERR_INTERNAL', `the addon failed: ${message}`, { cause: error });
  }
  return createError(code, message, { cause: error, errno, syscall, context });
}

interface NativeFields {
  code: unknown;
  errno: string | undefined;
  syscall: string | undefined;
  context: ErrorContext | undefined;
  message: string;
}

function toNativeFields(error: unknown): NativeFields {
  const fields = (typeof error === 'object' && error !== null ? error : {}) as Record<
    string,
    unknown
  >;
  const text = (value: unknown): string | undefined =>
    typeof value === 'string' ? value : undefined;
  return {
    code: fields.code,
    errno: text(fields.errno),
    syscall: text(fields.syscall),
    context:
      typeof fields.context === 'object' && fields.context !== null
        ? (fields.context as ErrorContext)
        : undefined,
    message: text(fields.message) ?? String(error),
  };
}

/** What an aborted operation rejects with; the signal's reason is the `cause`. */
export function abortedError(signal: AbortSignal, what: string): EmbervmError {
  return createError('ERR_ABORTED', `${what} was aborted`, { cause: signal.reason });
}
