/** Tells at once when a sandbox cannot go on. */
import { EmbervmError, SandboxError } from '../errors.js';
import { waitFor } from '../machine/wait.js';
import type { Vm } from './vms.js';

const INTERVAL_MS = 1_000;
const ANSWER_MS = 30_000;

/**
 * Ends with the error when the VM dies, at that moment, or when the agent does not answer; and
 * without one when the sandbox is paused, stopped, deleted or released, or on `close`.
 *
 * @example
 * const failure = await (await sandbox.monitor()).ended;
 */
export class Monitor implements AsyncDisposable, AsyncIterable<EmbervmError> {
  readonly ended: Promise<EmbervmError | undefined>;
  readonly #end: (failure?: EmbervmError) => void;

  /** @internal */
  constructor(id: string, vm: Vm) {
    let settle = (_failure?: EmbervmError): void => {};
    this.ended = new Promise((resolve) => {
      settle = resolve;
    });
    let busy = false;
    const timer = setInterval(async () => {
      if (busy) return;
      busy = true;
      try {
        const answered = vm.agent.check().then(() => true);
        const what = 'the agent';
        const answer = await waitFor(answered, { what, timeoutMs: ANSWER_MS });
        if (answer === undefined) this.#end(agentLost(id, `no answer in ${ANSWER_MS} ms`));
      } catch (cause) {
        this.#end(agentLost(id, (cause as Error).message, cause));
      } finally {
        busy = false;
      }
    }, INTERVAL_MS);
    // It does not keep the process alive: the VM does, where there is one.
    timer.unref();
    let unwatch = (): void => {};
    this.#end = (failure) => {
      clearInterval(timer);
      unwatch();
      vm.monitors.delete(this);
      settle(failure);
    };
    vm.monitors.add(this);
    unwatch = vm.hypervisor.watch((failure) => this.#end(failure));
  }

  /** Idempotent. */
  close(): void {
    this.#end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** The error, where there is one. */
  async *[Symbol.asyncIterator](): AsyncIterator<EmbervmError> {
    const failure = await this.ended;
    if (failure !== undefined) yield failure;
  }
}

function agentLost(id: string, why: string, cause?: unknown): EmbervmError {
  if (cause instanceof EmbervmError && cause.code === 'ERR_SANDBOX_CRASHED') return cause;
  return new SandboxError('ERR_SANDBOX_CRASHED', `the agent of "${id}" is lost: ${why}`, {
    cause,
    reason: 'agent_lost',
    context: { sandbox: id },
  });
}
