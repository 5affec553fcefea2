#include "lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inroot.h"
#include "limits.h"

static char window[AGENT_USER_LINE_LIMIT];

// Hands on the whole lines in the window and returns how many bytes they took.
static size_t visit_lines(size_t held, lines_visit* visit, void* context, bool* skipping,
                          bool* stopped) {
  size_t start = 0;
  while (start < held) {
    const char* newline = memchr(window + start, '\n', held - start);
    if (newline == NULL) {
      break;
    }
    const struct slice line = {window + start, (size_t)(newline - window) - start};
    if (!*skipping && !visit(context, line)) {
      *stopped = true;
      return held;
    }
    *skipping = false;
    start += line.length + 1;
  }
  return start;
}

static int read_lines(int fd, lines_visit* visit, void* context) {
  size_t held = 0;
  size_t total = 0;
  bool skipping = false;
  bool stopped = false;
  for (;;) {
    const ssize_t got = read(fd, window + held, sizeof(window) - held);
    if (got < 0) {
      if (errno == EINTR) {
        continue;
      }
      return errno;
    }
    if (got == 0) {
      break;
    }
    held += (size_t)got;
    total += (size_t)got;
    if (total > AGENT_USER_FILE_LIMIT) {
      return EFBIG;
    }
    const size_t used = visit_lines(held, visit, context, &skipping, &stopped);
    if (stopped) {
      return 0;
    }
    held -= used;
    memmove(window, window + used, held);
    if (held == sizeof(window)) {
      skipping = true;
      held = 0;
    }
  }
  if (held > 0 && !skipping) {
    visit(context, (struct slice){window, held});
  }
  return 0;
}

int lines_read(int root_fd, const char* path, lines_visit* visit, void* context) {
  // Not blocking: a FIFO in the place of the file must not stop PID 1.
  const int fd = open_in_root(root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) {
    return errno;
  }
  struct stat status;
  int error = 0;
  if (fstat(fd, &status) < 0) {
    error = errno;
  } else if (!S_ISREG(status.st_mode)) {
    error = EINVAL;
  } else {
    error = read_lines(fd, visit, context);
  }
  close(fd);
  return error;
}

bool slice_next(struct slice* rest, char separator, struct slice* part) {
  if (rest->data == NULL) {
    return false;
  }
  const char* at = rest->length == 0 ? NULL : memchr(rest->data, separator, rest->length);
  if (at == NULL) {
    *part = *rest;
    *rest = (struct slice){NULL, 0};
    return true;
  }
  *part = (struct slice){rest->data, (size_t)(at - rest->data)};
  rest->length -= part->length + 1;
  rest->data = at + 1;
  return true;
}

bool slice_equals(struct slice slice, struct slice other) {
  return slice.length == other.length &&
         (slice.length == 0 || memcmp(slice.data, other.data, slice.length) == 0);
}
