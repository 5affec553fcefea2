/** What stands between a sandbox and its agent. */
import type { ResolvedProxyConfig } from '../../config/virtcontainers/parts.js';

export interface ProxyParams {
  /** Of the sandbox. */
  id: string;
  /** Where its sockets go. */
  directory: string;
  agentUrl: string;
  consoleUrl: string | undefined;
}

export interface StartedProxy {
  /** 0: there is no process. */
  pid: number;
  /** Where the agent is reached from now on. */
  url: string;
}

export interface AgentProxy {
  start(config: ResolvedProxyConfig, params: ProxyParams): Promise<StartedProxy>;
  /** Idempotent. */
  stop(id: string, pid: number): Promise<void>;
}
