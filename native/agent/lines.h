// Lines of a small untrusted text file beneath the workload's root.
#ifndef EMBERVM_AGENT_LINES_H_
#define EMBERVM_AGENT_LINES_H_

#include <stdbool.h>
#include <stddef.h>

// A slice of the line; not ended by NUL.
struct slice {
  const char* data;
  size_t length;
};

// Called for each line without its newline. False stops the reading.
typedef bool lines_visit(void* context, struct slice line);

// 0 when all was read or the visitor stopped, else an errno: EFBIG beyond the
// limit, EINVAL when it is no regular file. A line over the limit is passed over.
int lines_read(int root_fd, const char* path, lines_visit* visit, void* context);

// Takes the part before `separator` off the front of `rest`; the whole rest when
// there is none. False when `rest` is used up.
bool slice_next(struct slice* rest, char separator, struct slice* part);

bool slice_equals(struct slice slice, struct slice other);

#endif  // EMBERVM_AGENT_LINES_H_
