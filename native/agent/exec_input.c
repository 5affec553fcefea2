// What the process of an exec is given to read.
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "container.h"
#include "exec_private.h"
#include "limits.h"

static void release_connection(struct exec* exec) {
  if (exec->holding) {
    exec->holding = false;
    connection_unhold(exec->stream.connection);
  }
}

void exec_close_input(struct exec* exec) {
  loop_watch_close(&exec->input);
  buffer_release(&exec->pending);
  exec->input_ended = true;
  release_connection(exec);
}

// Writes without waiting and returns how much was taken; closes the pipe when its
// reader is gone, which is the process's own affair and not an error.
static size_t write_input(struct exec* exec, const uint8_t* bytes, size_t length) {
  size_t written = 0;
  while (written < length) {
    const ssize_t count = write(exec->input.fd, bytes + written, length - written);
    if (count >= 0) {
      written += (size_t)count;
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      exec_close_input(exec);
      return length;
    }
  }
  return written;
}

static void on_ready(struct loop_watch* watch, uint32_t events) {
  struct exec* exec = CONTAINER_OF(watch, struct exec, input);
  (void)events;
  const size_t written = write_input(exec, buffer_bytes(&exec->pending), exec->pending.length);
  if (exec->input.fd < 0) {
    return;
  }
  buffer_consume(&exec->pending, written);
  if (exec->pending.length > 0) {
    return;
  }
  if (exec->input_ended) {
    exec_close_input(exec);
  } else {
    loop_watch_set(&exec->input, 0);
    release_connection(exec);
  }
}

void exec_take_input(struct exec* exec, const uint8_t* bytes, size_t length) {
  if (length > AGENT_MAX_STDIN_MESSAGE) {
    stream_fail(&exec->stream, TTRPC_INVALID_ARGUMENT, "a stdin message is over 64 KiB");
    return;
  }
  if (terminal_is_open(&exec->terminal)) {
    stream_fail(&exec->stream, TTRPC_INVALID_ARGUMENT,
                "the input of a terminal travels on its raw stream");
    return;
  }
  if (exec->input.fd < 0 || exec->input_ended) {
    return;
  }
  // Frames are held back while something is pending, so nothing is here.
  const size_t written = write_input(exec, bytes, length);
  const size_t rest = length - written;
  if (rest == 0 || exec->input.fd < 0) {
    return;
  }
  uint8_t* to = buffer_reserve(&exec->pending, rest);
  if (to == NULL || loop_watch_set(&exec->input, EPOLLOUT) < 0) {
    stream_fail(&exec->stream, TTRPC_RESOURCE_EXHAUSTED, "no memory for stdin");
    return;
  }
  memcpy(to, bytes + written, rest);
  buffer_commit(&exec->pending, rest);
  exec->holding = true;
  connection_hold(exec->stream.connection);
}

void exec_end_input(struct exec* exec) {
  exec->input_ended = true;
  if (exec->pending.length == 0) {
    exec_close_input(exec);
  }
}

void exec_clear_input(struct exec* exec) {
  exec->input = (struct loop_watch){.ready = on_ready, .fd = -1};
}
