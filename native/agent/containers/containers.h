// The containers of the sandbox: made from a checked configuration, each with a
// control group and its processes.
#ifndef EMBERVM_CONTAINERS_CONTAINER_H_
#define EMBERVM_CONTAINERS_CONTAINER_H_

#include <linux/filter.h>
#include <stdbool.h>

#include "../loop.h"
#include "bounds.h"
#include "oom.h"
#include "process.h"

enum container_state {
  CONTAINER_CREATING,
  CONTAINER_CREATED,
  CONTAINER_STARTING,
  CONTAINER_RUNNING,
  CONTAINER_STOPPED,
};

struct container {
  struct loop_garbage garbage;
  struct container* next;
  char id[CONTAINER_ID_SIZE];
  enum container_state state;
  bool paused;
  bool killing;
  struct process* processes;
  struct process* first;
  // A pidfd of the first process, and which namespaces further ones join there.
  int init;
  int namespaces;
  int cgroup;
  char* cgroup_path;
  int device_program;
  struct sock_filter* filter;
  size_t filter_length;
  unsigned filter_flags;
  struct pending* removals;
  struct oom_watch oom;
  // Looks whether the control group is empty.
  struct loop_timer poll;
};

extern struct container* containers;

struct container* container_find(const char* id);
struct process* container_find_process(struct container* container, const char* id);

void container_create(const CreateContainerRequest* request, const struct call* call);
void container_start(struct container* container, const struct call* call);
void container_exec(struct container* container, const ExecProcessRequest* request,
                    const struct call* call);
void container_remove(struct container* container, const struct call* call);
// Ends what runs in it.
void container_kill(struct container* container);
// Kills and forgets it, without anybody who waits.
void container_drop(struct container* container);

#endif  // EMBERVM_CONTAINERS_CONTAINER_H_
