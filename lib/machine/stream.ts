/** Descriptors of vsock streams as Node streams. */
import { close } from 'node:fs';
import { Socket } from 'node:net';
import { createError } from '../errors.js';

const descriptors = new WeakMap<Socket, number>();

/**
 * Wraps one end of a socketpair. Half-open, because vsock shuts each direction
 * down on its own: whoever has the stream ends both.
 */
export function adoptStream(fd: number): Socket {
  const stream = new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
  descriptors.set(stream, fd);
  return stream;
}

/** The descriptor of a stream that is open, for the addon to duplicate. */
export function descriptorOf(stream: Socket): number {
  const fd = descriptors.get(stream);
  if (fd === undefined || stream.destroyed) {
    throw createError('ERR_INTERNAL', 'a stream that is not ours, or is closed, has no descriptor');
  }
  return fd;
}

/** For a descriptor that nobody wants any more. */
export function discardStream(fd: number): void {
  close(fd, () => {
    // Nothing was written and nobody reads: there is nobody to tell.
  });
}
