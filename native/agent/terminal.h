// The terminal of a process: a pseudo-terminal of the workload's own devpts, and
// the raw stream that carries its bytes to and from the host.
//
// Each direction holds at most one chunk, so a reader that waits holds up the
// process and a process that does not read holds up the writer. A host that ends
// the stream has detached: the process goes on, and what it prints is dropped.
#ifndef EMBERVM_AGENT_TERMINAL_H_
#define EMBERVM_AGENT_TERMINAL_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "buffer.h"
#include "loop.h"
#include "text.h"

// Zeroed but for both descriptors -1 it is no terminal.
struct terminal {
  struct loop_watch master;
  struct loop_watch stream;
  // Read from the master and not yet taken by the host, and the other way round.
  struct buffer output;
  struct buffer input;
  // The process has ended.
  bool ended;
  // No process has the terminal open.
  bool unused;
  // Upper bound of what the process wrote before its end and is not yet read.
  size_t owed;
  // Something was moved or closed.
  void (*progressed)(struct terminal* terminal);
};

struct terminal_request {
  uint32_t rows;
  uint32_t cols;
  // Of the raw stream.
  const char* stream;
  uid_t owner;
};

void terminal_clear(struct terminal* terminal, void (*progressed)(struct terminal* terminal));

// True once opened, until it is closed.
bool terminal_is_open(const struct terminal* terminal);

// Makes a terminal and claims its stream. Returns the process's end of it,
// close-on-exec; or -1 with errno and the reason.
int terminal_open(struct terminal* terminal, const struct terminal_request* request,
                  struct text* reason);

// Begins to move bytes. False with errno.
bool terminal_start(struct terminal* terminal);

// The kernel tells the foreground processes. False with errno.
bool terminal_resize(const struct terminal* terminal, uint32_t rows, uint32_t cols);

// The process has ended: what it wrote is still moved.
void terminal_process_ended(struct terminal* terminal);

// Whether all that the process wrote has gone; `held` is set when somebody else
// still has the terminal. Without `grace_over` a terminal that is held is not done.
bool terminal_is_done(const struct terminal* terminal, bool grace_over, bool* held);

// Ends the stream and hangs up whoever still has the terminal.
void terminal_close(struct terminal* terminal);

#endif  // EMBERVM_AGENT_TERMINAL_H_
