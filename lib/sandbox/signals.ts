/** Names and numbers of signals, which host and guest share. */
import { constants } from 'node:os';
import { ConfigError } from '../errors.js';

const MAX_SIGNAL = 64;
const FIRST_REALTIME = 34;
export const SIGKILL: number = constants.signals.SIGKILL;

const names = new Map<number, string>();
for (const [name, number] of Object.entries(constants.signals)) {
  // The first name of a number is the usual one: SIGABRT before SIGIOT.
  if (!names.has(number)) names.set(number, name);
}

export function signalName(number: number): string {
  const name = names.get(number);
  if (name !== undefined) return name;
  return number >= FIRST_REALTIME && number <= MAX_SIGNAL
    ? `SIGRTMIN+${number - FIRST_REALTIME}`
    : `SIG${number}`;
}

export function signalNumber(signal: unknown): number {
  if (typeof signal === 'string' && Object.hasOwn(constants.signals, signal)) {
    return constants.signals[signal as NodeJS.Signals];
  }
  const number = signal as number;
  if (Number.isInteger(number) && number >= 0 && number <= MAX_SIGNAL) return number;
  throw new ConfigError(
    'ERR_INVALID_CONFIG',
    `invalid signal: ${String(signal)} is neither a name such as "SIGTERM" nor a number from 0 to ${MAX_SIGNAL}`,
    { context: { option: 'signal' } },
  );
}

/** `ENOENT` for 2; `undefined` for 0 and for what is no errno. */
export function errnoName(errno: number): string | undefined {
  return Object.entries(constants.errno).find(([, number]) => number === errno)?.[0];
}
