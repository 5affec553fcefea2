/** Who holds a sandbox: a process, told apart from a later one of the same number. */
import { readFile } from 'node:fs/promises';

export interface Owner {
  pid: number;
  /** Clock ticks from boot to the start of the process. */
  startTime: string;
  bootId: string;
}

/** `startTime` is the 22nd field of /proc/<pid>/stat, counted from 1. */
const START_TIME_AFTER_NAME = 19;

/** This process. */
export async function currentOwner(): Promise<Owner> {
  const [startTime, bootId] = await Promise.all([startTimeOf(process.pid), readBootId()]);
  return { pid: process.pid, startTime: startTime ?? '', bootId };
}

/** False when the process has ended, also where its number was given to another. */
export async function isAlive(owner: Owner): Promise<boolean> {
  const [startTime, bootId] = await Promise.all([startTimeOf(owner.pid), readBootId()]);
  return startTime === owner.startTime && bootId === owner.bootId;
}

async function startTimeOf(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'latin1');
    // The name in parentheses may hold anything, also spaces and parentheses.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[START_TIME_AFTER_NAME];
  } catch {
    return undefined;
  }
}

async function readBootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'latin1')).trim();
}
