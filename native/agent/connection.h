// A socket that carries ttrpc frames: gathers whole frames from what arrives,
// and holds what the peer has not yet taken. What the frames mean is the
// server's business (server.h).
#ifndef EMBERVM_AGENT_CONNECTION_H_
#define EMBERVM_AGENT_CONNECTION_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"
#include "loop.h"
#include "ttrpc.h"

struct stream;

struct connection {
  struct loop_garbage garbage;
  struct loop_watch watch;
  // Writes what was queued during a batch in one system call.
  struct loop_task flush;
  struct buffer in;
  struct buffer out;

  // Of a frame that is too large: bytes still to be thrown away, and its header.
  uint64_t discard;
  struct ttrpc_header discarded;
  bool discard_for_memory;

  bool closed;
  // At least one byte has arrived: the peer is there.
  bool heard;
  // A stream cannot take more input now, so no frame is read.
  unsigned holds;
  // Somebody waits for room in `out`.
  bool starved;

  // Of the server: the highest stream id seen, and the open streams.
  uint32_t last_stream;
  struct stream* streams;
  unsigned stream_count;

  // Called once when the connection ends. May be NULL.
  void (*on_close)(struct connection* connection);
};

// Takes ownership of a non-blocking stream socket, also when it fails (NULL).
struct connection* connection_open(int fd, void (*on_close)(struct connection*));

// Ends the connection and its streams. Its memory lives until the batch ends.
void connection_close(struct connection* connection);

// Connections that are open.
unsigned connection_count(void);

// Room for a frame of `size` bytes, header included, in the out buffer: NULL when
// there is none now. The caller who got NULL is told by the stream's `drained`.
uint8_t* connection_reserve(struct connection* connection, size_t size);
void connection_commit(struct connection* connection, size_t size);
bool connection_has_room(struct connection* connection, size_t size);

// Stops and resumes the intake of frames. Calls nest.
void connection_hold(struct connection* connection);
void connection_unhold(struct connection* connection);

#endif  // EMBERVM_AGENT_CONNECTION_H_
