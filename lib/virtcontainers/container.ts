/** A container, as its sandbox knows it. */
import { containerNotFound } from './errors.js';
import type { ContainerRecord } from './record.js';
import type { VcSandbox } from './sandbox.js';
import type { State } from './state-table.js';
import type { CallOptions, Process } from './types.js';

export interface ContainerView {
  sandbox: VcSandbox;
  id: string;
  /** As the sandbox knows it now. */
  record: () => ContainerRecord | undefined;
  setPid: (pid: number, options: CallOptions) => Promise<void>;
}

/** Shows what the handle of its sandbox saw last. */
export class VcContainer {
  readonly id: string;
  readonly sandbox: VcSandbox;
  readonly #view: ContainerView;
  #last: ContainerRecord | undefined;

  /** @internal */
  constructor(view: ContainerView) {
    this.id = view.id;
    this.sandbox = view.sandbox;
    this.#view = view;
    this.#last = view.record();
  }

  get state(): State {
    return this.#record().state;
  }

  /** The container's first process. */
  get process(): Process {
    const { token, pid, startTime } = this.#record().process;
    return { token, pid, startTime: new Date(startTime) };
  }

  getAnnotations(): Record<string, string> {
    return { ...this.#record().config.annotations };
  }

  getPid(): number {
    return this.#record().process.pid;
  }

  getToken(): string {
    return this.#record().process.token;
  }

  /** For callers with a shim of their own. */
  async setPid(pid: number, options: CallOptions = {}): Promise<void> {
    await this.#view.setPid(pid, options);
  }

  /** @internal Looks at it while it is there: one that was deleted stays as it was. */
  see(): this {
    this.#record();
    return this;
  }

  #record(): ContainerRecord {
    const record = this.#view.record() ?? this.#last;
    if (record === undefined) throw containerNotFound(this.sandbox.id, this.id);
    this.#last = record;
    return record;
  }
}
