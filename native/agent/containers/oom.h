// Containers that ran out of memory: the kernel wakes whoever polls memory.events
// of their control groups, and callers of GetOOMEvent are told.
#ifndef EMBERVM_CONTAINERS_OOM_H_
#define EMBERVM_CONTAINERS_OOM_H_

#include <stdint.h>

#include "../loop.h"
#include "../server.h"

struct oom_watch {
  struct loop_watch watch;
  // How often it was told of.
  uint64_t kills;
  const char* id;
};

// Without a controller for memory nothing is watched. `id` lives as long as the watch.
void oom_watch_start(struct oom_watch* oom, int group, const char* id);
// Tells of what it has not told yet.
void oom_watch_stop(struct oom_watch* oom);

// Answered with the oldest event that nobody was told of, or with the next one. Each
// goes to one caller.
void oom_get_event(const struct call* call);

// The sandbox is gone: its events are forgotten, and who waits for one is told.
void oom_reset(void);

#endif  // EMBERVM_CONTAINERS_OOM_H_
