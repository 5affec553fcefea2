/** The members of a tar archive from elsewhere, one after the other. Their names may be any. */
import { once } from 'node:events';
import type { Extract, Header } from 'tar-stream';

export interface TarMember {
  name: string;
  type: Header['type'] | null;
  size: number;
  /** To be read to its end, or nothing follows. */
  content: AsyncIterable<Uint8Array>;
}

/** Rejects with the error of `bytes`, or one that says how they are no archive. */
export async function* tarMembers(
  bytes: AsyncIterable<Uint8Array>,
): AsyncGenerator<TarMember, void, void> {
  const { extract } = await import('tar-stream');
  const reader = extract();
  const fed = feed(reader, bytes);
  try {
    for await (const entry of reader) {
      const { name, type, size } = entry.header;
      yield { name, type, size, content: entry as AsyncIterable<Uint8Array> };
    }
    await fed;
  } finally {
    // The source may take its time with what nobody wants any more.
    reader.destroy(null);
  }
}

/** What goes wrong is told by the reader. */
async function feed(reader: Extract, bytes: AsyncIterable<Uint8Array>): Promise<void> {
  try {
    for await (const chunk of bytes) {
      if (reader.destroying) return;
      if (!reader.write(chunk)) await drained(reader);
    }
    reader.end(null);
  } catch (error) {
    reader.destroy(error as Error);
  }
}

async function drained(reader: Extract): Promise<void> {
  if (reader.destroying) return;
  // Either may come: what is no archive closes the reader.
  const waiting = new AbortController();
  const { signal } = waiting;
  await Promise.race([once(reader, 'drain', { signal }), once(reader, 'close', { signal })]).catch(
    () => {},
  );
  waiting.abort();
}
