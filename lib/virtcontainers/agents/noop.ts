/** An agent that agrees to everything: containers only have a state. */
import { Readable, Writable } from 'node:stream';
import type { NetworkInterface, Route } from '../../config/virtcontainers/network.js';
import type { AgentType } from '../../config/virtcontainers/parts.js';
import type { ProcessList, ProcessListOptions, ProcessStreams } from '../types.js';
import type { Agent } from './agent.js';

export class NoopAgent implements Agent {
  readonly type: AgentType = 'noop';

  async createSandbox(): Promise<void> {}
  async destroySandbox(): Promise<void> {}
  async createContainer(): Promise<void> {}
  async startContainer(): Promise<void> {}
  async removeContainer(): Promise<void> {}
  async execProcess(): Promise<void> {}
  async signalProcess(): Promise<void> {}
  async winsizeProcess(): Promise<void> {}
  async updateInterface(): Promise<void> {}
  async removeInterface(): Promise<void> {}
  async check(): Promise<void> {}
  close(): void {}

  async waitProcess(): Promise<number> {
    return 0;
  }

  /** What is written is taken, and there is nothing to read. */
  ioStream(): ProcessStreams {
    return {
      stdin: new Writable({ write: (_chunk, _encoding, done) => done() }),
      stdout: Readable.from([]),
      stderr: Readable.from([]),
    };
  }

  async listProcesses(_containerId: string, options: ProcessListOptions): Promise<ProcessList> {
    return options.format === 'json' ? [] : '';
  }

  async listInterfaces(): Promise<NetworkInterface[] | undefined> {
    return undefined;
  }

  async updateRoutes(routes: Route[]): Promise<Route[]> {
    return routes;
  }

  async listRoutes(): Promise<Route[] | undefined> {
    return undefined;
  }
}
