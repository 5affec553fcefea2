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

// Lets go of everything but the process.
static void dispose(struct exec* exec) {
  for (struct exec** at = &execs; *at != NULL; at = &(*at)->next) {
    if (*at == exec) {
      *at = exec->next;
      break;
    }
  }
  exec_close_input(exec);
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    loop_watch_close(&exec->outputs[i].watch);
  }
  terminal_close(&exec->terminal);
  loop_timer_stop(&exec->grace);
  loop_timer_stop(&exec->deadline);
  loop_discard(&exec->garbage);
}

// The process goes on without a stream, and waits when its pipes are full.
static void leave(struct exec* exec) {
  exec_close_input(exec);
  loop_timer_stop(&exec->grace);
  loop_timer_stop(&exec->deadline);
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    if (exec->outputs[i].watch.fd >= 0) {
      loop_watch_set(&exec->outputs[i].watch, 0);
    }
    exec->outputs[i].blocked = false;
  }
  exec->left = true;
}

static void on_aborted(struct stream* stream) {
  struct exec* exec = CONTAINER_OF(stream, struct exec, stream);
  // A machine that goes on from a snapshot has lost all streams, and its init must not end for it.
  if (exec->is_init && exec->state != EXEC_WAITING) {
    leave(exec);
    return;
  }
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
  if (exec->state != EXEC_ENDED || exec->left) {
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
  if (exec->left) {
    // Whoever takes it up is told, and of what is in the pipes.
    return;
  }
  loop_timer_stop(&exec->deadline);
  exec_close_input(exec);
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
    if (exec->state != EXEC_ENDED || exec->left || exec->stream.connection->closed) {
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

// --- The stream

// False when the stream has failed.
static bool watch_outputs(struct exec* exec) {
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    struct loop_watch* watch = &exec->outputs[i].watch;
    if (watch->fd >= 0 && loop_watch_set(watch, EPOLLIN) < 0) {
      stream_fail(&exec->stream, TTRPC_RESOURCE_EXHAUSTED, "no memory to watch the output");
      return false;
    }
  }
  return true;
}

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
  if (!watch_outputs(exec)) {
    return;
  }
  if (terminal_is_open(&exec->terminal) && !terminal_start(&exec->terminal)) {
    stream_fail(&exec->stream, TTRPC_RESOURCE_EXHAUSTED, "no memory to watch the terminal");
    return;
  }
  if (exec->stream.remote_closed) {
    exec_end_input(exec);
  }
}

static struct exec* find_init(uint64_t exec_id) {
  for (struct exec* exec = execs; exec != NULL; exec = exec->next) {
    if (exec->is_init && exec->id == exec_id) {
      return exec;
    }
  }
  return NULL;
}

// Goes on with the init where its last stream was lost.
static void take_up(struct exec* exec, uint64_t exec_id) {
  if (exec->state != EXEC_WAITING) {
    stream_fail(&exec->stream, TTRPC_INVALID_ARGUMENT, "start was sent before");
    return;
  }
  struct exec* from = find_init(exec_id);
  if (from == NULL) {
    stream_fail(&exec->stream, TTRPC_NOT_FOUND, "no init has that id");
    return;
  }
  if (!from->left) {
    // Lost, too, though the news of it has not come yet.
    stream_fail(&from->stream, TTRPC_FAILED_PRECONDITION,
                "the init was taken up by another stream");
  }
  const bool ended = from->state == EXEC_ENDED;
  exec->state = EXEC_RUNNING;
  exec->id = from->id;
  exec->pid = from->pid;
  exec->is_init = from->is_init;
  const int status = from->status;
  for (size_t i = 0; i < EXEC_OUTPUTS; i++) {
    exec->outputs[i].watch.fd = from->outputs[i].watch.fd;
    from->outputs[i].watch.fd = -1;
  }
  dispose(from);
  send_started(exec);
  if (!exec->stream.open || !watch_outputs(exec)) {
    return;
  }
  if (ended) {
    on_ended(exec, status);
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
  } else if (request->request_case == EXEC_REQUEST(TAKE_UP)) {
    take_up(exec, request->take_up);
  } else if (exec->state == EXEC_WAITING) {
    stream_fail(stream, TTRPC_INVALID_ARGUMENT, "the first request must carry start");
  } else if (request->request_case == EXEC_REQUEST(STDIN)) {
    exec_take_input(exec, request->stdin.data, request->stdin.len);
  } else if (request->request_case == EXEC_REQUEST(STDIN_CLOSE)) {
    if (request->stdin_close) {
      exec_end_input(exec);
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
    exec_end_input(exec);
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
  exec_clear_input(exec);
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
