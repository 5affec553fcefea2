/** The option `init`: what becomes PID 1 of the workload. */
import { absoluteGuestPath, cleanText, environment } from './common.js';
import * as z from './zod.js';

export type InitOption =
  | 'auto'
  | {
      cmd: string;
      args?: string[] | undefined;
      env?: Record<string, string> | undefined;
    };

export interface ResolvedInit {
  /** Tried in this order; the first that exists is taken. */
  candidates: string[];
  args: string[];
  env: Record<string, string>;
}

/** Where images keep theirs. */
const USUAL = ['/sbin/init', '/lib/systemd/systemd', '/usr/lib/systemd/systemd'];

const command = z.pipe(
  z.strictObject({
    cmd: absoluteGuestPath,
    args: z._default(z.array(cleanText), []),
    env: z._default(environment, {}),
  }),
  z.transform(({ cmd, ...rest }) => ({ candidates: [cmd], ...rest })),
);

const auto = z.pipe(
  z.enum(['auto']),
  z.transform(() => ({ candidates: USUAL, args: [], env: {} })),
);

export const init: z.ZodMiniType<ResolvedInit> = z.union([auto, command]);
