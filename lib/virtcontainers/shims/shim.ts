/** The process of the host that stands for one of a container. */
import type { ResolvedShimConfig } from '../../config/virtcontainers/parts.js';

export interface ShimParams {
  container: string;
  token: string;
  /** Of the agent, or of the proxy before it. */
  url: string;
  terminal: boolean;
  detach: boolean;
  /** Path of a terminal. */
  console: string;
}

export interface Shim {
  /** Resolves with the process id: 0 without a shim, -1 where it is built in. */
  start(config: ResolvedShimConfig, params: ShimParams): Promise<number>;
}
