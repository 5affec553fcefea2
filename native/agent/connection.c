#include "connection.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "container.h"
#include "limits.h"
#include "server.h"

static unsigned open_connections;

unsigned connection_count(void) { return open_connections; }

static void destroy(struct loop_garbage* garbage) {
  struct connection* connection = CONTAINER_OF(garbage, struct connection, garbage);
  buffer_release(&connection->in);
  buffer_release(&connection->out);
  free(connection);
}

void connection_close(struct connection* connection) {
  if (connection->closed) {
    return;
  }
  connection->closed = true;
  loop_watch_close(&connection->watch);
  server_connection_closed(connection);
  open_connections--;
  if (connection->on_close != NULL) {
    connection->on_close(connection);
  }
  // Not freed at once: a frame of it may be in somebody's hands right now.
  loop_discard(&connection->garbage);
}

static bool can_take_frame(struct connection* connection) {
  return !connection->closed && connection->holds == 0 &&
         connection_has_room(connection, AGENT_REPLY_ROOM);
}

// Throws away what has arrived of a too large frame. False when more is to come.
static bool discard_some(struct connection* connection) {
  const size_t held = connection->in.length;
  const size_t now = connection->discard < held ? (size_t)connection->discard : held;
  if (now > 0) {
    buffer_consume(&connection->in, now);
  }
  connection->discard -= now;
  if (connection->discard > 0) {
    return false;
  }
  server_frame_refused(connection, &connection->discarded, connection->discard_for_memory);
  return true;
}

static void start_discard(struct connection* connection, const struct ttrpc_header* header,
                          bool for_memory) {
  connection->discarded = *header;
  connection->discard_for_memory = for_memory;
  connection->discard = header->length;
  buffer_consume(&connection->in, TTRPC_HEADER_SIZE);
}

// Handles every whole frame that is held.
static void take_frames(struct connection* connection) {
  struct buffer* in = &connection->in;
  while (can_take_frame(connection)) {
    if (connection->discard > 0) {
      if (!discard_some(connection)) {
        return;
      }
      continue;
    }
    if (in->length < TTRPC_HEADER_SIZE) {
      return;
    }
    const struct ttrpc_header header = ttrpc_header_get(buffer_bytes(in));
    if (header.length > TTRPC_MAX_DATA) {
      start_discard(connection, &header, false);
      continue;
    }
    const size_t whole = TTRPC_HEADER_SIZE + header.length;
    if (in->length < whole) {
      if (in->length == in->capacity && !buffer_grow(in, whole)) {
        start_discard(connection, &header, true);
        continue;
      }
      return;
    }
    server_frame(connection, &header, buffer_bytes(in) + TTRPC_HEADER_SIZE);
    buffer_consume(in, whole);
  }
  if (!connection->closed && connection->holds == 0) {
    connection->starved = true;
  }
}

static void receive(struct connection* connection) {
  struct buffer* in = &connection->in;
  // A whole block when nothing is held, else what is left of it.
  const size_t room = buffer_room(in);
  uint8_t* to = buffer_reserve(in, room);
  if (to == NULL) {
    connection_close(connection);
    return;
  }
  const ssize_t received = recv(connection->watch.fd, to, room, 0);
  if (received > 0) {
    connection->heard = true;
    buffer_commit(in, (size_t)received);
    take_frames(connection);
    return;
  }
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) {
    buffer_consume(in, 0);
    return;
  }
  connection_close(connection);
}

static void on_ready(struct loop_watch* watch, uint32_t events) {
  struct connection* connection = CONTAINER_OF(watch, struct connection, watch);
  loop_task_queue(&connection->flush);
  if ((events & EPOLLIN) != 0 && (watch->events & EPOLLIN) != 0) {
    receive(connection);
  } else if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
    connection_close(connection);
  }
}

// Writes what is held. False when the connection has ended.
static bool write_out(struct connection* connection) {
  struct buffer* out = &connection->out;
  while (out->length > 0) {
    const ssize_t sent =
        send(connection->watch.fd, buffer_bytes(out), out->length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) {
        continue;
      }
      if (errno == EAGAIN) {
        return true;
      }
      connection_close(connection);
      return false;
    }
    buffer_consume(out, (size_t)sent);
  }
  return true;
}

static void on_flush(struct loop_task* task) {
  struct connection* connection = CONTAINER_OF(task, struct connection, flush);
  while (!connection->closed) {
    if (!write_out(connection)) {
      return;
    }
    if (!connection->starved || !connection_has_room(connection, AGENT_IO_CHUNK * 3 / 2)) {
      break;
    }
    connection->starved = false;
    server_connection_drained(connection);
    take_frames(connection);
    if (connection->out.length == 0) {
      break;
    }
  }
  if (connection->closed) {
    return;
  }
  uint32_t events = EPOLLRDHUP;
  if (can_take_frame(connection)) {
    events |= EPOLLIN;
  }
  if (connection->out.length > 0) {
    events |= EPOLLOUT;
  }
  if (loop_watch_set(&connection->watch, events) < 0) {
    connection_close(connection);
  }
}

struct connection* connection_open(int fd, void (*on_close)(struct connection*)) {
  struct connection* connection = calloc(1, sizeof(*connection));
  if (connection == NULL) {
    close(fd);
    return NULL;
  }
  connection->garbage.destroy = destroy;
  connection->watch = (struct loop_watch){.ready = on_ready, .fd = fd};
  connection->flush.run = on_flush;
  connection->on_close = on_close;
  if (loop_watch_set(&connection->watch, EPOLLIN | EPOLLRDHUP) < 0) {
    loop_watch_close(&connection->watch);
    free(connection);
    return NULL;
  }
  open_connections++;
  return connection;
}

bool connection_has_room(struct connection* connection, size_t size) {
  return buffer_room(&connection->out) >= size;
}

uint8_t* connection_reserve(struct connection* connection, size_t size) {
  uint8_t* at = connection->closed ? NULL : buffer_reserve(&connection->out, size);
  if (at == NULL) {
    connection->starved = true;
    loop_task_queue(&connection->flush);
  }
  return at;
}

void connection_commit(struct connection* connection, size_t size) {
  buffer_commit(&connection->out, size);
  if (connection->out.length == 0) {
    buffer_release(&connection->out);
    return;
  }
  loop_task_queue(&connection->flush);
}

void connection_hold(struct connection* connection) {
  connection->holds++;
  loop_task_queue(&connection->flush);
}

void connection_unhold(struct connection* connection) {
  connection->holds--;
  if (connection->holds == 0 && !connection->closed) {
    // What was held back is handled from the flush, not from inside the caller.
    connection->starved = true;
    loop_task_queue(&connection->flush);
  }
}
