#include "rawstream.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "container.h"
#include "limits.h"
#include "listener.h"
#include "log.h"
#include "loop.h"

enum { kLengthSize = 4 };

// A stream that nobody has claimed yet.
struct raw_stream {
  struct loop_garbage garbage;
  struct loop_watch watch;
  struct loop_timer deadline;
  struct raw_stream* next;
  // The length and the id, as far as they have arrived.
  size_t received;
  bool acknowledged;
  uint8_t head[kLengthSize + AGENT_RAW_ID_LIMIT];
};

static void on_accept(struct loop_watch* watch, uint32_t events);

static struct {
  struct loop_watch listener;
  struct raw_stream* unclaimed;
  unsigned count;
} raw = {.listener = {.ready = on_accept, .fd = -1}};

static void destroy(struct loop_garbage* garbage) {
  free(CONTAINER_OF(garbage, struct raw_stream, garbage));
}

// While there is no place, connections wait in the backlog.
static void watch_listener(void) {
  const bool full = raw.count >= AGENT_MAX_UNCLAIMED_STREAMS;
  if (loop_watch_set(&raw.listener, full ? 0 : EPOLLIN) < 0) {
    log_error("watch the socket of raw streams", errno);
  }
}

static void forget(struct raw_stream* stream) {
  for (struct raw_stream** at = &raw.unclaimed; *at != NULL; at = &(*at)->next) {
    if (*at == stream) {
      *at = stream->next;
      break;
    }
  }
  raw.count--;
  loop_timer_stop(&stream->deadline);
  loop_discard(&stream->garbage);
  watch_listener();
}

static void drop(struct raw_stream* stream) {
  loop_watch_close(&stream->watch);
  forget(stream);
}

static void on_deadline(struct loop_timer* timer) {
  drop(CONTAINER_OF(timer, struct raw_stream, deadline));
}

// Of a head whose length has arrived.
static size_t id_length(const struct raw_stream* stream) {
  const uint8_t* head = stream->head;
  return (size_t)head[0] << 24 | (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
}

static struct raw_stream* find(const uint8_t* id, size_t length) {
  for (struct raw_stream* stream = raw.unclaimed; stream != NULL; stream = stream->next) {
    if (stream->acknowledged && id_length(stream) == length &&
        memcmp(stream->head + kLengthSize, id, length) == 0) {
      return stream;
    }
  }
  return NULL;
}

// False when the stream breaks the rules.
static bool acknowledge(struct raw_stream* stream) {
  const size_t length = id_length(stream);
  if (find(stream->head + kLengthSize, length) != NULL) {
    return false;
  }
  const size_t whole = kLengthSize + length;
  // The first bytes of a connection: they fit, or the host does not want them.
  if (send(stream->watch.fd, stream->head, whole, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)whole) {
    return false;
  }
  stream->acknowledged = true;
  // What follows is for the one who claims it; so is the end.
  return loop_watch_set(&stream->watch, 0) == 0;
}

// How much of the head is to come; 0 when it is complete or cannot be one.
static size_t missing(const struct raw_stream* stream, bool* wrong) {
  if (stream->received < kLengthSize) {
    return kLengthSize - stream->received;
  }
  const size_t length = id_length(stream);
  *wrong = length == 0 || length > AGENT_RAW_ID_LIMIT;
  return *wrong ? 0 : kLengthSize + length - stream->received;
}

static void on_ready(struct loop_watch* watch, uint32_t events) {
  struct raw_stream* stream = CONTAINER_OF(watch, struct raw_stream, watch);
  (void)events;
  bool wrong = false;
  for (size_t wanted; (wanted = missing(stream, &wrong)) > 0;) {
    // Never more than the head: the rest belongs to the one who claims it.
    const ssize_t got = recv(watch->fd, stream->head + stream->received, wanted, 0);
    if (got > 0) {
      stream->received += (size_t)got;
    } else if (got < 0 && errno == EAGAIN) {
      return;
    } else if (got == 0 || errno != EINTR) {
      drop(stream);
      return;
    }
  }
  if (wrong || !acknowledge(stream)) {
    drop(stream);
  }
}

static void on_accept(struct loop_watch* watch, uint32_t events) {
  (void)events;
  const int fd = listener_accept(watch);
  if (fd < 0) {
    return;
  }
  struct raw_stream* stream = calloc(1, sizeof(*stream));
  if (stream == NULL) {
    log_error("take a raw stream", ENOMEM);
    close(fd);
    return;
  }
  stream->garbage.destroy = destroy;
  stream->watch = (struct loop_watch){.ready = on_ready, .fd = fd};
  stream->deadline.fire = on_deadline;
  stream->next = raw.unclaimed;
  raw.unclaimed = stream;
  raw.count++;
  loop_timer_start(&stream->deadline, AGENT_RAW_CLAIM_MS);
  if (loop_watch_set(&stream->watch, EPOLLIN) < 0) {
    drop(stream);
    return;
  }
  watch_listener();
}

int raw_streams_start(const struct control_address* at) { return listener_open(&raw.listener, at); }

void raw_streams_stop(void) {
  loop_watch_close(&raw.listener);
  while (raw.unclaimed != NULL) {
    drop(raw.unclaimed);
  }
}

int raw_stream_claim(const char* id) {
  struct raw_stream* stream = find((const uint8_t*)id, strlen(id));
  if (stream == NULL) {
    errno = ENOENT;
    return -1;
  }
  const int fd = stream->watch.fd;
  stream->watch.fd = -1;
  forget(stream);
  return fd;
}
