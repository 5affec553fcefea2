/** A tar archive that is written from its beginning to its end. */
import type { FileHandle } from 'node:fs/promises';
import { padding, type TarItem, tarEnd, tarHeader } from './tar-header.js';

export class TarWriter {
  readonly #write: (bytes: Uint8Array) => Promise<void>;

  constructor(write: (bytes: Uint8Array) => Promise<void>) {
    this.#write = write;
  }

  /** `content` has to have as many bytes as the item's `size` says. */
  async add(item: TarItem, content?: AsyncIterable<Uint8Array>): Promise<void> {
    await this.#write(tarHeader(item));
    const size = item.size ?? 0;
    let written = 0;
    for await (const chunk of content ?? []) {
      written += chunk.length;
      if (written > size) break;
      await this.#write(chunk);
    }
    if (written !== size) {
      throw new Error(`${item.path} has changed while it was read: it had ${size} bytes`);
    }
    await this.#write(padding(size));
  }

  async end(): Promise<void> {
    await this.#write(tarEnd);
  }
}

/** All of `bytes`, at the end of the file. */
export async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done)).bytesWritten;
  }
}
