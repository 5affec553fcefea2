#include "control.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "connection.h"
#include "limits.h"
#include "listener.h"
#include "log.h"
#include "loop.h"

static void on_redial(struct loop_timer* timer);
static void on_accept(struct loop_watch* watch, uint32_t events);

static struct {
  struct control_address to;
  uint64_t backoff_ms;
  struct loop_timer redial;
  struct loop_watch listener;
  bool stopped;
} control = {.redial = {.fire = on_redial}, .listener = {.ready = on_accept, .fd = -1}};

int control_dial(const struct control_address* to) {
  const int fd = socket(to->address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, to->address, to->length) < 0 && errno != EINPROGRESS) {
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  return fd;
}

static void schedule_redial(void) {
  if (control.stopped) {
    return;
  }
  loop_timer_start(&control.redial, control.backoff_ms);
  control.backoff_ms = control.backoff_ms == 0 ? AGENT_REDIAL_MIN_MS : control.backoff_ms * 2;
  if (control.backoff_ms > AGENT_REDIAL_MAX_MS) {
    control.backoff_ms = AGENT_REDIAL_MAX_MS;
  }
}

static void watch_listener(void) {
  const bool full = connection_count() >= AGENT_MAX_CONNECTIONS;
  if (loop_watch_set(&control.listener, full ? 0 : EPOLLIN) < 0) {
    log_error("watch the listening socket", errno);
  }
}

static void on_control_closed(struct connection* connection) {
  if (connection->heard) {
    // The host was there: a loss of the connection, not an absent listener.
    control.backoff_ms = 0;
  }
  schedule_redial();
  watch_listener();
}

static void on_stream_closed(struct connection* connection) {
  (void)connection;
  watch_listener();
}

// Whether the dial fails shows later, as the end of the connection.
static void serve_control(int fd) {
  if (fd < 0 || connection_open(fd, on_control_closed) == NULL) {
    schedule_redial();
  }
}

static void on_redial(struct loop_timer* timer) {
  (void)timer;
  serve_control(control_dial(&control.to));
}

static void on_accept(struct loop_watch* watch, uint32_t events) {
  (void)events;
  const int fd = listener_accept(watch);
  if (fd < 0) {
    return;
  }
  if (connection_open(fd, on_stream_closed) == NULL) {
    log_error("serve a connection", ENOMEM);
  }
  watch_listener();
}

int control_start(int dialled, const struct control_address* to, const struct control_address* at) {
  control.to = *to;
  const int result = at == NULL ? 0 : listener_open(&control.listener, at);
  const int error = errno;
  serve_control(dialled);
  errno = error;
  return result;
}

void control_stop(void) {
  control.stopped = true;
  loop_timer_stop(&control.redial);
  loop_watch_close(&control.listener);
}
