#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../container.h"
#include "containers.h"
#include "files.h"

// Room that stays for the answers to other calls when output is sent.
enum { kReplyRoom = 8 * 1024, kEndOfInput = 4, kSignalBase = 128 };

static size_t held_input;

// --- Output

static void reply_data(struct pending* pending, uint8_t* data, size_t length) {
  Grpc__ReadStreamResponse response = GRPC__READ_STREAM_RESPONSE__INIT;
  response.data.data = data;
  response.data.len = length;
  pending_reply(pending, &response.base);
}

static void end_output(struct output* output) {
  loop_watch_close(&output->watch);
  while (output->readers != NULL) {
    reply_data(output->readers, NULL, 0);
  }
}

// Answers readers with what there is. They wait for the rest.
static void pump_output(struct output* output) {
  static uint8_t chunk[READ_CHUNK];
  const struct process* process = output->process;
  bool starved = false;
  while (output->readers != NULL && output->watch.fd >= 0) {
    struct pending* reader = output->readers;
    if (!connection_has_room(reader->stream.connection, READ_CHUNK + kReplyRoom)) {
      // Asks to be told when there is.
      connection_reserve(reader->stream.connection, READ_CHUNK * 3);
      starved = true;
      break;
    }
    const size_t wanted = reader->length < READ_CHUNK ? reader->length : READ_CHUNK;
    const ssize_t got = read(output->watch.fd, chunk, wanted);
    if (got > 0) {
      reply_data(reader, chunk, (size_t)got);
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else if (got == 0 || errno != EAGAIN) {
      // EIO is a terminal that nobody has open: the end only with the process's.
      if (got < 0 && errno == EIO && process->terminal && process->state != PROCESS_ENDED) {
        loop_watch_set(&output->watch, 0);
        return;
      }
      end_output(output);
      return;
    } else if (process->grace_over) {
      end_output(output);
      return;
    } else {
      break;
    }
  }
  if (loop_watch_set(&output->watch, output->readers != NULL && !starved ? EPOLLIN : 0) < 0) {
    end_output(output);
  }
}

static void on_output(struct loop_watch* watch, uint32_t events) {
  (void)events;
  pump_output(CONTAINER_OF(watch, struct output, watch));
}

static void on_reader_drained(struct pending* pending) { pump_output(pending->owner); }

void process_read(struct process* process, unsigned output, uint32_t length,
                  const struct call* call) {
  struct output* from = &process->outputs[output];
  struct pending* reader = pending_open(call, &from->readers, from);
  if (reader == NULL) {
    return;
  }
  reader->length = length;
  reader->drained = on_reader_drained;
  if (from->watch.fd < 0) {
    end_output(from);
  } else {
    pump_output(from);
  }
}

static void on_grace_over(struct loop_timer* timer) {
  struct process* process = CONTAINER_OF(timer, struct process, grace);
  process->grace_over = true;
  for (size_t i = 0; i < 2; i++) {
    if (process->outputs[i].watch.fd >= 0) {
      pump_output(&process->outputs[i]);
    }
  }
}

// --- Input

static void drop_writer(struct pending* writer) {
  held_input -= writer->size;
  writer->size = 0;
}

static void fail_writers(struct process* process) {
  while (process->writers != NULL) {
    struct pending* writer = process->writers;
    drop_writer(writer);
    writer->aborted = NULL;
    pending_fail(writer, TTRPC_FAILED_PRECONDITION, "nobody reads the standard input any more");
  }
}

static void shut_input(struct process* process) {
  loop_watch_close(&process->input);
  process->input_ended = true;
  fail_writers(process);
}

static void pump_input(struct process* process) {
  while (process->writers != NULL) {
    struct pending* writer = process->writers;
    const ssize_t count =
        write(process->input.fd, writer->data + writer->at, writer->size - writer->at);
    if (count < 0 && errno == EAGAIN) {
      break;
    }
    if (count < 0 && errno != EINTR) {
      shut_input(process);
      return;
    }
    writer->at += count > 0 ? (size_t)count : 0;
    if (writer->at == writer->size) {
      Grpc__WriteStreamResponse response = GRPC__WRITE_STREAM_RESPONSE__INIT;
      response.len = (uint32_t)writer->size;
      drop_writer(writer);
      writer->aborted = NULL;
      pending_reply(writer, &response.base);
    }
  }
  if (process->writers == NULL && process->input_ended) {
    loop_watch_close(&process->input);
  } else if (loop_watch_set(&process->input, process->writers != NULL ? EPOLLOUT : 0) < 0) {
    shut_input(process);
  }
}

static void on_input(struct loop_watch* watch, uint32_t events) {
  (void)events;
  pump_input(CONTAINER_OF(watch, struct process, input));
}

void process_close_input(struct process* process) {
  if (process->input.fd < 0 || process->input_ended) {
    return;
  }
  if (process->terminal) {
    // A terminal has one end for both directions: its reader sees the end of a line.
    const char end = kEndOfInput;
    const ssize_t ignored = write(process->input.fd, &end, 1);
    (void)ignored;
    return;
  }
  process->input_ended = true;
  pump_input(process);
}

void process_write(struct process* process, const uint8_t* data, size_t length,
                   const struct call* call) {
  if (process->input.fd < 0 || process->input_ended) {
    call_fail(call, TTRPC_FAILED_PRECONDITION, "the standard input is closed");
    return;
  }
  if (length == 0) {
    process_close_input(process);
    const Grpc__WriteStreamResponse response = GRPC__WRITE_STREAM_RESPONSE__INIT;
    call_reply(call, &response.base);
    return;
  }
  uint8_t* copy = length <= STDIN_BUDGET - held_input ? malloc(length) : NULL;
  if (copy == NULL) {
    call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "too much input waits for its readers");
    return;
  }
  struct pending* writer = pending_open(call, &process->writers, process);
  if (writer == NULL) {
    free(copy);
    return;
  }
  memcpy(copy, data, length);
  writer->data = copy;
  writer->size = length;
  writer->aborted = drop_writer;
  held_input += length;
  pump_input(process);
}

bool process_resize(struct process* process, uint32_t rows, uint32_t columns) {
  const struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
  return process->input.fd >= 0 && ioctl(process->input.fd, TIOCSWINSZ, &size) == 0;
}

// --- The child's reports

static void take_terminal(struct process* process, int master) {
  process->outputs[0].watch.fd = master;
  process->input.fd = fcntl(master, F_DUPFD_CLOEXEC, 0);
}

static ssize_t receive(int fd, struct report* report, int* attached) {
  struct iovec bytes = {report, sizeof(*report)};
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct msghdr message = {.msg_iov = &bytes,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = sizeof(control.space)};
  const ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  const struct cmsghdr* header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
  *attached = -1;
  if (header != NULL && header->cmsg_type == SCM_RIGHTS) {
    memcpy(attached, CMSG_DATA(header), sizeof(int));
  }
  return got;
}

static void on_sync(struct loop_watch* watch, uint32_t events) {
  (void)events;
  struct process* process = CONTAINER_OF(watch, struct process, sync);
  struct report report;
  int attached;
  const ssize_t got = receive(watch->fd, &report, &attached);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
    return;
  }
  if (got == (ssize_t)sizeof(report)) {
    if (report.kind == REPORT_TERMINAL && attached >= 0 && process->input.fd < 0) {
      take_terminal(process, attached);
      return;
    }
    if (attached >= 0) {
      close(attached);
    }
    if (report.kind == REPORT_READY) {
      process->state = PROCESS_READY;
    } else {
      process->failed = true;
      process->failure = report;
      process->failure.message[sizeof(report.message) - 1] = '\0';
      return;
    }
  } else {
    // The end: its program runs, or it is gone.
    loop_watch_close(watch);
    if (process->state == PROCESS_SETTING_UP || process->state == PROCESS_READY) {
      process->failed = true;
    } else if (process->state == PROCESS_STARTING && !process->failed) {
      process->state = PROCESS_RUNNING;
    }
  }
  container_process_changed(process);
}

bool process_order(struct process* process, char order) {
  const struct {
    char order;
    pid_t pid;
  } message = {order, process->pid};
  return send(process->sync.fd, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT) ==
         (ssize_t)sizeof(message);
}

// --- The end

static int exit_code(int status) {
  return WIFSIGNALED(status) ? kSignalBase + WTERMSIG(status) : WEXITSTATUS(status);
}

static void tell_end(struct process* process) {
  Grpc__WaitProcessResponse response = GRPC__WAIT_PROCESS_RESPONSE__INIT;
  response.status = exit_code(process->status);
  while (process->waiters != NULL) {
    process->waited = true;
    pending_reply(process->waiters, &response.base);
  }
}

void process_wait(struct process* process, const struct call* call) {
  if (process->waited) {
    call_fail(call, TTRPC_NOT_FOUND, "the end of this process was told before");
    return;
  }
  if (pending_open(call, &process->waiters, process) != NULL && process->state == PROCESS_ENDED) {
    tell_end(process);
  }
}

static struct process* find(pid_t pid) {
  for (struct container* container = containers; container != NULL; container = container->next) {
    for (struct process* process = container->processes; process != NULL; process = process->next) {
      if (process->pid == pid) {
        return process;
      }
    }
  }
  return NULL;
}

bool process_reaped(pid_t pid, int status) {
  struct process* process = find(pid);
  if (process == NULL) {
    return false;
  }
  // What it reported comes first.
  while (process->sync.fd >= 0) {
    const int before = process->sync.fd;
    on_sync(&process->sync, 0);
    struct report peek;
    if (process->sync.fd == before && recv(before, &peek, 1, MSG_PEEK | MSG_DONTWAIT) < 0) {
      loop_watch_close(&process->sync);
    }
  }
  process->pid = 0;
  process->status = status;
  process->state = PROCESS_ENDED;
  shut_input(process);
  loop_timer_start(&process->grace, OUTPUT_GRACE_MS);
  for (size_t i = 0; i < 2; i++) {
    if (process->outputs[i].watch.fd >= 0) {
      pump_output(&process->outputs[i]);
    }
  }
  tell_end(process);
  container_process_ended(process);
  return true;
}

// --- The beginning

static void destroy(struct loop_garbage* garbage) {
  free(CONTAINER_OF(garbage, struct process, garbage));
}

void process_dispose(struct process* process) {
  for (struct process** at = &process->container->processes; *at != NULL; at = &(*at)->next) {
    if (*at == process) {
      *at = process->next;
      break;
    }
  }
  shut_input(process);
  end_output(&process->outputs[0]);
  end_output(&process->outputs[1]);
  loop_watch_close(&process->sync);
  loop_timer_stop(&process->grace);
  while (process->waiters != NULL) {
    pending_fail(process->waiters, TTRPC_NOT_FOUND, "the process is gone");
  }
  while (process->starter != NULL) {
    pending_fail(process->starter, TTRPC_INTERNAL, "the process is gone");
  }
  loop_discard(&process->garbage);
}

static struct process* allocate(struct container* container, const char* id) {
  struct process* process = calloc(1, sizeof(*process));
  if (process == NULL) {
    return NULL;
  }
  process->garbage.destroy = destroy;
  process->container = container;
  memcpy(process->id, id, strlen(id) + 1);
  process->sync = (struct loop_watch){.ready = on_sync, .fd = -1};
  process->input = (struct loop_watch){.ready = on_input, .fd = -1};
  for (size_t i = 0; i < 2; i++) {
    process->outputs[i].watch = (struct loop_watch){.ready = on_output, .fd = -1};
    process->outputs[i].process = process;
  }
  process->grace.fire = on_grace_over;
  process->next = container->processes;
  container->processes = process;
  return process;
}

enum { kChildEnds = 4 };

// The service's ends do not block, the child's do.
static bool open_ends(struct process* process, struct child_request* child, int* ends) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
    return false;
  }
  process->sync.fd = pair[0];
  ends[3] = child->sync = pair[1];
  if (process->terminal) {
    return true;
  }
  if (pipe2(pair, O_CLOEXEC) < 0) {
    return false;
  }
  process->input.fd = pair[1];
  ends[0] = child->stdio[0] = pair[0];
  for (size_t i = 0; i < 2; i++) {
    if (pipe2(pair, O_CLOEXEC) < 0) {
      return false;
    }
    process->outputs[i].watch.fd = pair[0];
    ends[i + 1] = child->stdio[i + 1] = pair[1];
  }
  return fcntl(process->input.fd, F_SETFL, O_NONBLOCK) == 0 &&
         fcntl(process->outputs[0].watch.fd, F_SETFL, O_NONBLOCK) == 0 &&
         fcntl(process->outputs[1].watch.fd, F_SETFL, O_NONBLOCK) == 0;
}

struct process* process_start(struct container* container, const struct process_request* request,
                              struct text* reason) {
  struct process* process = allocate(container, request->id);
  if (process == NULL) {
    text_join(reason, "no memory for another process", NULL);
    return NULL;
  }
  struct child_request child = request->child;
  child.stdio[0] = child.stdio[1] = child.stdio[2] = child.sync = -1;
  process->terminal = child.process->terminal;
  int ends[kChildEnds] = {-1, -1, -1, -1};
  const char* call = "make pipes";
  if (open_ends(process, &child, ends) && loop_watch_set(&process->sync, EPOLLIN) == 0) {
    call = "clone";
    process->pid = child_start(&child);
    process->state = child.container == NULL ? PROCESS_STARTING : PROCESS_SETTING_UP;
  } else {
    process->pid = -1;
  }
  const int error = errno;
  for (size_t i = 0; i < kChildEnds; i++) {
    close_descriptor(&ends[i]);
  }
  if (process->pid > 0) {
    return process;
  }
  process->pid = 0;
  text_failure(reason, call, NULL, error);
  process_dispose(process);
  return NULL;
}
