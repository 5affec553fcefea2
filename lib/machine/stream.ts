/** Descriptors of vsock streams as Node streams. */
import { close } from 'node:fs';
import { Socket } from 'node:net';

/**
 * Wraps one end of a socketpair. Half-open, because vsock shuts each direction
 * down on its own: whoever has the stream ends both.
 */
export function adoptStream(fd: number): Socket {
  return new Socket({ fd, readable: true, writable: true, allowHalfOpen: true });
}

/** For a descriptor that nobody wants any more. */
export function discardStream(fd: number): void {
  close(fd, () => {
    // Nothing was written and nobody reads: there is nobody to tell.
  });
}
