/** What a process holds, before and after. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

export interface Resources {
  descriptors: string[];
  threads: string[];
  rssBytes: number;
}

export function resources(): Resources {
  return {
    descriptors: readdirSync('/proc/self/fd').flatMap(describeDescriptor).sort(),
    threads: readdirSync('/proc/self/task').map(threadName).sort(),
    rssBytes: process.memoryUsage().rss,
  };
}

/** What it is, without the numbers that differ each time. */
function describeDescriptor(fd: string): string[] {
  try {
    return [readlinkSync(`/proc/self/fd/${fd}`).replace(/\[\d+\]/, '')];
  } catch {
    // It was the one that listed the directory.
    return [];
  }
}

function threadName(id: string): string {
  try {
    return readFileSync(`/proc/self/task/${id}/comm`, 'utf8').trim();
  } catch {
    return 'ended';
  }
}

export interface Countable {
  descriptors: string[];
  threads: string[];
}

/** Descriptors and threads, without Node's own pool, whose size depends on its work. */
export function countable(): Countable {
  const { descriptors, threads } = resources();
  return { descriptors, threads };
}

/** The same where guests live on, whose drives' threads come and go with what those do. */
export function countableBesideGuests(): Countable {
  const { descriptors, threads } = countable();
  return { descriptors, threads: threads.filter((name) => name !== 'ember-disk') };
}
