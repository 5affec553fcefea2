// Collects every child that ends: processes of Exec and the orphans that PID 1
// inherits. One signalfd serves them all; a storm of exits is one event.
#ifndef EMBERVM_AGENT_REAPER_H_
#define EMBERVM_AGENT_REAPER_H_

#include <stdbool.h>

// Blocks SIGCHLD and SIGPIPE and watches the former. -1 with errno.
int reaper_start(void);
void reaper_stop(void);

// Collects what has ended. False when no child is left.
bool reaper_collect(void);

#endif  // EMBERVM_AGENT_REAPER_H_
