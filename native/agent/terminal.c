#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "container.h"
#include "limits.h"
#include "rawstream.h"
#include "root.h"

// Of <asm-generic/ioctls.h>, which musl does not have.
#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

enum { kMaxSide = 65535 };

// --- Making one

static bool set_size(int fd, uint32_t rows, uint32_t cols) {
  if (rows > kMaxSide || cols > kMaxSide) {
    errno = EINVAL;
    return false;
  }
  const struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)cols};
  return ioctl(fd, TIOCSWINSZ, &size) == 0;
}

// A backspace erases a character and not a byte.
static bool set_utf8(int fd) {
  struct termios mode;
  if (tcgetattr(fd, &mode) < 0) {
    return false;
  }
  mode.c_iflag |= IUTF8;
  return tcsetattr(fd, TCSANOW, &mode) == 0;
}

// Returns the process's end.
static int make_pair(int* master, const struct terminal_request* request, const char** call) {
  *call = "open /dev/pts/ptmx";
  *master = openat(root_terminals_fd(), "ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (*master < 0) {
    return -1;
  }
  const int unlocked = 0;
  *call = "ioctl TIOCSPTLCK";
  if (ioctl(*master, TIOCSPTLCK, &unlocked) < 0) {
    return -1;
  }
  *call = "ioctl TIOCSWINSZ";
  if (!set_size(*master, request->rows, request->cols)) {
    return -1;
  }
  // Not by its name, which a workload could have given to something else.
  *call = "ioctl TIOCGPTPEER";
  const int slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) {
    return -1;
  }
  *call = "fchown of the terminal";
  if (set_utf8(slave) && (request->owner == 0 || fchown(slave, request->owner, (gid_t)-1) == 0)) {
    return slave;
  }
  const int error = errno;
  close(slave);
  errno = error;
  return -1;
}

int terminal_open(struct terminal* terminal, const struct terminal_request* request,
                  struct text* reason) {
  const int stream = raw_stream_claim(request->stream);
  if (stream < 0) {
    text_join(reason, "no raw stream has the id \"", request->stream, "\"", NULL);
    return -1;
  }
  int master;
  const char* call;
  const int slave = make_pair(&master, request, &call);
  if (slave < 0) {
    const int error = errno;
    text_failure(reason, call, NULL, error);
    close(stream);
    if (master >= 0) {
      close(master);
    }
    errno = error;
    return -1;
  }
  terminal->master.fd = master;
  terminal->stream.fd = stream;
  return slave;
}

bool terminal_is_open(const struct terminal* terminal) {
  return terminal->master.fd >= 0 || terminal->stream.fd >= 0;
}

bool terminal_resize(const struct terminal* terminal, uint32_t rows, uint32_t cols) {
  return set_size(terminal->master.fd, rows, cols);
}

// --- Moving bytes

static void lose_stream(struct terminal* terminal) {
  loop_watch_close(&terminal->stream);
  buffer_release(&terminal->output);
}

// False while something is left that the host does not take now.
static bool flush_output(struct terminal* terminal) {
  struct buffer* output = &terminal->output;
  while (output->length > 0) {
    const ssize_t sent = send(terminal->stream.fd, buffer_bytes(output), output->length,
                              MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      buffer_consume(output, (size_t)sent);
    } else if (errno == EAGAIN) {
      return false;
    } else if (errno != EINTR) {
      lose_stream(terminal);
    }
  }
  return true;
}

// One chunk: a read of a terminal gives at most a page, a send costs far more.
static void read_output(struct terminal* terminal) {
  uint8_t* to = buffer_reserve(&terminal->output, AGENT_TERMINAL_CHUNK);
  if (to == NULL) {
    // Better an end that shows than output with a hole in it.
    lose_stream(terminal);
    return;
  }
  size_t length = 0;
  while (length < AGENT_TERMINAL_CHUNK) {
    const ssize_t got = read(terminal->master.fd, to + length, AGENT_TERMINAL_CHUNK - length);
    if (got > 0) {
      length += (size_t)got;
    } else if (got == 0 || errno != EINTR) {
      // EIO: nobody has the other end. After the end of the process it is final;
      // before, the process may open its terminal again, and closing ours now
      // would hang it up.
      if (got == 0 || errno != EAGAIN) {
        terminal->unused = true;
      }
      terminal->owed = 0;
      break;
    }
  }
  terminal->owed -= length < terminal->owed ? length : terminal->owed;
  buffer_commit(&terminal->output, length);
  if (length == 0 || terminal->stream.fd < 0) {
    buffer_release(&terminal->output);
  }
}

static void pump_output(struct terminal* terminal) {
  do {
    if (!flush_output(terminal) || terminal->master.fd < 0 || terminal->unused) {
      break;
    }
    read_output(terminal);
    flush_output(terminal);
  } while (terminal->ended && terminal->owed > 0);
  if (terminal->ended && terminal->unused) {
    loop_watch_close(&terminal->master);
  }
}

static void flush_input(struct terminal* terminal) {
  struct buffer* input = &terminal->input;
  while (input->length > 0) {
    const ssize_t count = write(terminal->master.fd, buffer_bytes(input), input->length);
    if (count >= 0) {
      buffer_consume(input, (size_t)count);
    } else if (errno == EAGAIN) {
      return;
    } else if (errno != EINTR) {
      buffer_release(input);
    }
  }
}

static void pump_input(struct terminal* terminal) {
  uint8_t* to = buffer_reserve(&terminal->input, AGENT_TERMINAL_CHUNK);
  const ssize_t got =
      to == NULL ? 0 : recv(terminal->stream.fd, to, AGENT_TERMINAL_CHUNK, MSG_DONTWAIT);
  buffer_commit(&terminal->input, got > 0 ? (size_t)got : 0);
  if (got > 0) {
    flush_input(terminal);
    return;
  }
  const int error = errno;
  buffer_release(&terminal->input);
  if (got == 0 || (error != EAGAIN && error != EINTR)) {
    lose_stream(terminal);
  }
}

static bool watch(struct terminal* terminal) {
  uint32_t master = 0;
  uint32_t stream = 0;
  if (!terminal->unused && terminal->output.length == 0) {
    master |= EPOLLIN;
  }
  if (!terminal->unused && terminal->input.length > 0) {
    master |= EPOLLOUT;
  }
  if (terminal->input.length == 0 && !terminal->ended) {
    stream |= EPOLLIN;
  }
  if (terminal->output.length > 0) {
    stream |= EPOLLOUT;
  }
  // A hang-up of a descriptor that waits only for its other direction would be
  // reported again and again.
  if (master == EPOLLOUT && terminal->output.length > 0) {
    master = 0;
  }
  return loop_watch_set(&terminal->master, master) == 0 &&
         loop_watch_set(&terminal->stream, stream) == 0;
}

static void step(struct terminal* terminal) {
  if (!watch(terminal)) {
    lose_stream(terminal);
  }
  terminal->progressed(terminal);
}

static void on_master(struct loop_watch* from, uint32_t events) {
  struct terminal* terminal = CONTAINER_OF(from, struct terminal, master);
  if ((events & EPOLLOUT) != 0) {
    flush_input(terminal);
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
    pump_output(terminal);
  }
  step(terminal);
}

static void on_stream(struct loop_watch* from, uint32_t events) {
  struct terminal* terminal = CONTAINER_OF(from, struct terminal, stream);
  if ((events & EPOLLOUT) != 0) {
    pump_output(terminal);
  }
  if (terminal->stream.fd >= 0 && (events & ~(uint32_t)EPOLLOUT) != 0) {
    if ((from->events & EPOLLIN) != 0) {
      pump_input(terminal);
    } else {
      // An end that is seen while input is pending: a hang-up in both directions.
      lose_stream(terminal);
    }
  }
  step(terminal);
}

void terminal_clear(struct terminal* terminal, void (*progressed)(struct terminal* terminal)) {
  *terminal = (struct terminal){
      .master = {.ready = on_master, .fd = -1},
      .stream = {.ready = on_stream, .fd = -1},
      .progressed = progressed,
  };
}

bool terminal_start(struct terminal* terminal) { return watch(terminal); }

// --- The end

void terminal_process_ended(struct terminal* terminal) {
  terminal->ended = true;
  terminal->unused = false;
  terminal->owed = AGENT_TERMINAL_OWED;
  // Nobody is there to read it.
  buffer_release(&terminal->input);
  pump_output(terminal);
  if (!watch(terminal)) {
    lose_stream(terminal);
  }
}

bool terminal_is_done(const struct terminal* terminal, bool grace_over, bool* held) {
  if (terminal->output.length > 0) {
    return false;
  }
  if (terminal->master.fd < 0) {
    return true;
  }
  *held = true;
  return grace_over && terminal->owed == 0;
}

void terminal_close(struct terminal* terminal) {
  loop_watch_close(&terminal->master);
  loop_watch_close(&terminal->stream);
  buffer_release(&terminal->output);
  buffer_release(&terminal->input);
}
