#include "exec.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "container.h"
#include "exec_private.h"
#include "init.h"
#include "limits.h"
#include "poweroff.h"
#include "root.h"

enum { kNsPerMs = 1000000 };
// The exit event and the end of the stream.
enum { kEndRoom = 128 };

static struct exec* execs;

bool exec_id_in_use(uint64_t exec_id) {
  for (const struct exec* exec = execs; exec != NULL; exec = exec->next) {
    if (exec->state != EXEC_WAITING && exec->id == exec_id) {
      return true;
    }
  }
  return false;
}

static void destroy(struct loop_garbage* garbage) {
  free(CONTAINER_OF(garbage, struct exec, garbage));
}

static void release_connection(struct exec* exec) {
  if (exec->holding) {
    exec->holding = false;
    connection_unhold(exec->stream.connection);
  }
}

static void close_input(struct exec* exec) {
  loop_watch_close(&exec->input);
  buffer_release(&exec->pending);
  exec->input_ended = true;
  release_connection(exec);
}

// Lets go of everything but the process.
static void dispose(struct exec* exec) {
  for (struct exec** at = &execs; *at != NULL; at = &(*at)->next) {
    if (*at == exec) {
      *at = exec->next;
      break;
    }
  }
  close_input(exec);
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    loop_watch_close(&exec->outputs[i].watch);
  }
  terminal_close(&exec->terminal);
  loop_timer_stop(&exec->grace);
  loop_timer_stop(&exec->deadline);
  loop_discard(&exec->garbage);
}

static void on_aborted(struct stream* stream) {
  struct exec* exec = CONTAINER_OF(stream, struct exec, stream);
  // Nobody is there to hear from it. The reaper collects it like an orphan. One
  // that has a terminal is hung up by the end of that.
  if (exec->pid > 0 && !terminal_is_open(&exec->terminal)) {
    kill(-exec->pid, SIGKILL);
  }
  dispose(exec);
}

static void send_or_close(struct exec* exec, const ExecEvent* event) {
  if (!stream_send(&exec->stream, &event->base)) {
    connection_close(exec->stream.connection);
  }
}

static void send_failed(struct exec* exec, struct exec_failure* failure) {
  ExecFailed failed = EMBERVM__AGENT__V1__EXEC_FAILED__INIT;
  failed.kind = failure->kind;
  failed.error_number = failure->error;
  failed.message = failure->message.data;
  ExecEvent event = EMBERVM__AGENT__V1__EXEC_EVENT__INIT;
  event.event_case = EXEC_EVENT(FAILED);
  event.failed = &failed;
  send_or_close(exec, &event);
  if (exec->stream.open) {
    if (stream_finish(&exec->stream)) {
      dispose(exec);
    } else {
      connection_close(exec->stream.connection);
    }
  }
}

static void send_started(struct exec* exec) {
  ExecStarted started = EMBERVM__AGENT__V1__EXEC_STARTED__INIT;
  started.pid = exec->pid;
  ExecEvent event = EMBERVM__AGENT__V1__EXEC_EVENT__INIT;
  event.event_case = EXEC_EVENT(STARTED);
  event.started = &started;
  send_or_close(exec, &event);
}

// Sends the exit once nothing is owed. The exec is gone when it could be sent.
static void try_finish(struct exec* exec) {
  if (exec->state != EXEC_ENDED) {
    return;
  }
  bool held = false;
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    const struct exec_output* output = &exec->outputs[i];
    if (output->watch.fd >= 0) {
      if (!exec->grace_over || output->owed > 0) {
        return;
      }
      held = true;
    }
  }
  if (!terminal_is_done(&exec->terminal, exec->grace_over, &held)) {
    return;
  }
  if (connection_reserve(exec->stream.connection, kEndRoom) == NULL) {
    return;
  }
  // The stream of a terminal ends before its exit is told.
  terminal_close(&exec->terminal);
  ExecExited exited = EMBERVM__AGENT__V1__EXEC_EXITED__INIT;
  exited.output_held = held;
  if (WIFSIGNALED(exec->status)) {
    exited.status_case = EMBERVM__AGENT__V1__EXEC_EXITED__STATUS_SIGNAL;
    exited.signal = WTERMSIG(exec->status);
  } else {
    exited.status_case = EMBERVM__AGENT__V1__EXEC_EXITED__STATUS_EXIT_CODE;
    exited.exit_code = WEXITSTATUS(exec->status);
  }
  ExecEvent event = EMBERVM__AGENT__V1__EXEC_EVENT__INIT;
  event.event_case = EXEC_EVENT(EXITED);
  event.exited = &exited;
  // Both fit: the room was there a moment ago.
  if (stream_send(&exec->stream, &event.base) && stream_finish(&exec->stream)) {
    dispose(exec);
  } else {
    connection_close(exec->stream.connection);
  }
}

// --- Output

static void block_output(struct exec_output* output) {
  output->blocked = true;
  loop_watch_set(&output->watch, 0);
}

// Moves one chunk, or all chunks until the pipe is empty, at its end, or the
// connection is full.
static void pump_output(struct exec_output* output, bool all) {
  struct stream* stream = &output->exec->stream;
  do {
    uint8_t* to = stream_reserve_bytes(stream, AGENT_IO_CHUNK);
    if (to == NULL) {
      block_output(output);
      return;
    }
    const ssize_t got = read(output->watch.fd, to, AGENT_IO_CHUNK);
    const int error = errno;
    stream_send_bytes(stream, output->field, to, got > 0 ? (size_t)got : 0);
    if (got > 0) {
      const size_t count = (size_t)got;
      output->owed -= count < output->owed ? count : output->owed;
    } else if (got < 0 && error == EAGAIN) {
      output->owed = 0;
      return;
    } else if (got == 0 || error != EINTR) {
      output->owed = 0;
      loop_watch_close(&output->watch);
      return;
    }
  } while (all || output->owed > 0);
}

static void on_output(struct loop_watch* watch, uint32_t events) {
  struct exec_output* output = CONTAINER_OF(watch, struct exec_output, watch);
  if ((events & (EPOLLIN | EPOLLHUP)) == EPOLLHUP) {
    // No writer and no byte: the end, without a read to learn it.
    loop_watch_close(watch);
  } else {
    pump_output(output, (events & EPOLLHUP) != 0);
  }
  try_finish(output->exec);
}

static void on_drained(struct stream* stream) {
  struct exec* exec = CONTAINER_OF(stream, struct exec, stream);
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    struct exec_output* output = &exec->outputs[i];
    if (output->blocked) {
      output->blocked = false;
      if (loop_watch_set(&output->watch, EPOLLIN) < 0) {
        loop_watch_close(&output->watch);
      }
    }
  }
  try_finish(exec);
}

static void on_grace_over(struct loop_timer* timer) {
  struct exec* exec = CONTAINER_OF(timer, struct exec, grace);
  exec->grace_over = true;
  try_finish(exec);
}

static void on_terminal(struct terminal* terminal) {
  try_finish(CONTAINER_OF(terminal, struct exec, terminal));
}

static void on_ended(struct exec* exec, int status) {
  exec->pid = 0;
  exec->status = status;
  exec->state = EXEC_ENDED;
  loop_timer_stop(&exec->deadline);
  close_input(exec);
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    struct exec_output* output = &exec->outputs[i];
    if (output->watch.fd < 0) {
      continue;
    }
    pump_output(output, true);
    int held = 0;
    if (output->blocked && ioctl(output->watch.fd, FIONREAD, &held) == 0) {
      // All that the process wrote is among these bytes: pipes keep the order.
      output->owed = held > 0 ? (size_t)held : 0;
    }
  }
  if (terminal_is_open(&exec->terminal)) {
    terminal_process_ended(&exec->terminal);
  }
  // Last: it may send the exit and dispose of the exec.
  loop_timer_start(&exec->grace, AGENT_DRAIN_GRACE_MS);
  try_finish(exec);
}

void exec_reaped(pid_t pid, int status) {
  for (struct exec* exec = execs; exec != NULL; exec = exec->next) {
    if (exec->pid == pid) {
      on_ended(exec, status);
      return;
    }
  }
}

void exec_settle_all(void) {
  struct exec* next = NULL;
  for (struct exec* exec = execs; exec != NULL; exec = next) {
    next = exec->next;
    // A connection that is closed along the way takes all of its streams with it.
    if (exec->state != EXEC_ENDED || exec->stream.connection->closed) {
      continue;
    }
    for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
      struct exec_output* output = &exec->outputs[i];
      if (output->watch.fd >= 0 && !output->blocked) {
        pump_output(output, true);
      }
    }
    exec->grace_over = true;
    try_finish(exec);
  }
}

// --- Input

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
      close_input(exec);
      return length;
    }
  }
  return written;
}

static void on_input(struct loop_watch* watch, uint32_t events) {
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
    close_input(exec);
  } else {
    loop_watch_set(&exec->input, 0);
    release_connection(exec);
  }
}

static void take_input(struct exec* exec, const uint8_t* bytes, size_t length) {
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

static void end_input(struct exec* exec) {
  exec->input_ended = true;
  if (exec->pending.length == 0) {
    close_input(exec);
  }
}

// --- The stream

static void start(struct exec* exec, const ExecStart* request) {
  if (exec->state != EXEC_WAITING) {
    stream_fail(&exec->stream, TTRPC_INVALID_ARGUMENT, "start was sent before");
    return;
  }
  if (!root_is_ready()) {
    stream_fail(&exec->stream, TTRPC_FAILED_PRECONDITION, "no root yet: call SetUpRoot first");
    return;
  }
  if (power_off_has_begun()) {
    stream_fail(&exec->stream, TTRPC_UNAVAILABLE, "the machine is powering off");
    return;
  }
  if (init_state() == INIT_ENDED) {
    stream_fail(&exec->stream, TTRPC_UNAVAILABLE, "the init has ended, and its processes with it");
    return;
  }
  struct exec_failure failure;
  if (!exec_start_process(exec, request, &failure)) {
    send_failed(exec, &failure);
    return;
  }
  exec->state = EXEC_RUNNING;
  send_started(exec);
  if (!exec->stream.open) {
    return;
  }
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    if (loop_watch_set(&exec->outputs[i].watch, EPOLLIN) < 0) {
      stream_fail(&exec->stream, TTRPC_RESOURCE_EXHAUSTED, "no memory to watch the output");
      return;
    }
  }
  if (terminal_is_open(&exec->terminal) && !terminal_start(&exec->terminal)) {
    stream_fail(&exec->stream, TTRPC_RESOURCE_EXHAUSTED, "no memory to watch the terminal");
    return;
  }
  if (exec->stream.remote_closed) {
    end_input(exec);
  }
}

static void on_message(struct stream* stream, const uint8_t* bytes, size_t length) {
  struct exec* exec = CONTAINER_OF(stream, struct exec, stream);
  const ExecRequest* request =
      stream_decode(stream, &embervm__agent__v1__exec_request__descriptor, bytes, length);
  if (request == NULL) {
    return;
  }
  if (request->request_case == EXEC_REQUEST(START)) {
    start(exec, request->start);
  } else if (exec->state == EXEC_WAITING) {
    stream_fail(stream, TTRPC_INVALID_ARGUMENT, "the first request must carry start");
  } else if (request->request_case == EXEC_REQUEST(STDIN)) {
    take_input(exec, request->stdin.data, request->stdin.len);
  } else if (request->request_case == EXEC_REQUEST(STDIN_CLOSE)) {
    if (request->stdin_close) {
      end_input(exec);
    }
  } else {
    stream_fail(stream, TTRPC_INVALID_ARGUMENT, "the request is empty or of an unknown kind");
  }
}

static void on_remote_closed(struct stream* stream) {
  struct exec* exec = CONTAINER_OF(stream, struct exec, stream);
  if (exec->state == EXEC_WAITING) {
    stream_fail(stream, TTRPC_INVALID_ARGUMENT, "the stream ended before start");
  } else {
    end_input(exec);
  }
}

static void on_deadline(struct loop_timer* timer) {
  struct exec* exec = CONTAINER_OF(timer, struct exec, deadline);
  stream_fail(&exec->stream, TTRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
}

static const struct stream_operations kOperations = {
    .message = on_message,
    .remote_closed = on_remote_closed,
    .drained = on_drained,
    .aborted = on_aborted,
};

void exec_open(const struct call* call) {
  struct exec* exec = calloc(1, sizeof(*exec));
  if (exec == NULL) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "no memory for another process");
    return;
  }
  if (!stream_open(&exec->stream, call, &kOperations)) {
    free(exec);
    return;
  }
  exec->garbage.destroy = destroy;
  exec->input = (struct loop_watch){.ready = on_input, .fd = -1};
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    exec->outputs[i].watch = (struct loop_watch){.ready = on_output, .fd = -1};
    exec->outputs[i].exec = exec;
  }
  terminal_clear(&exec->terminal, on_terminal);
  exec->outputs[EXEC_STDOUT].field = EXEC_EVENT(STDOUT);
  exec->outputs[EXEC_STDERR].field = EXEC_EVENT(STDERR);
  exec->grace.fire = on_grace_over;
  exec->deadline.fire = on_deadline;
  exec->next = execs;
  execs = exec;
  if (call->timeout_ns > 0) {
    loop_timer_start(&exec->deadline, (uint64_t)call->timeout_ns / kNsPerMs + 1);
  }
  // The first message may come with the request or as data behind it.
  if (call->length > 0) {
    on_message(&exec->stream, call->payload, call->length);
  } else if (call->remote_closed) {
    on_remote_closed(&exec->stream);
  }
}

bool exec_signal(uint64_t exec_id, int signal, bool group) {
  for (const struct exec* exec = execs; exec != NULL; exec = exec->next) {
    // Without a pid the process was reaped, and its number may be another's.
    if (exec->id == exec_id && exec->pid > 0) {
      return kill(group ? -exec->pid : exec->pid, signal) == 0;
    }
  }
  return false;
}

bool exec_resize(uint64_t exec_id, uint32_t rows, uint32_t cols) {
  for (const struct exec* exec = execs; exec != NULL; exec = exec->next) {
    if (exec->id == exec_id && exec->pid > 0) {
      return terminal_is_open(&exec->terminal) && terminal_resize(&exec->terminal, rows, cols);
    }
  }
  return false;
}
