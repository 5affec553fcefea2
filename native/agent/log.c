#include "log.h"

#include <string.h>
#include <unistd.h>

#include "text.h"

void log_error(const char* what, int error) {
  struct text line;
  text_join(&line, "agent: ", what, error == 0 ? "" : ": ", error == 0 ? "" : strerror(error), "\n",
            NULL);
  // The console may be absent or closed: there is nowhere else to say so.
  const ssize_t written = write(STDERR_FILENO, line.data, line.length);
  (void)written;
}
