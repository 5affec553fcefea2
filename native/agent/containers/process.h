// A process of a container: its standard streams, which the host reads and writes by
// calls, and its end.
#ifndef EMBERVM_CONTAINERS_PROCESS_H_
#define EMBERVM_CONTAINERS_PROCESS_H_

#include <stdbool.h>
#include <sys/types.h>

#include "../loop.h"
#include "bounds.h"
#include "child.h"
#include "pending.h"

struct container;
struct process;

enum process_state {
  // What runs is our own code.
  PROCESS_SETTING_UP,
  // The first process of a container that waits to be started.
  PROCESS_READY,
  // Told to run its program.
  PROCESS_STARTING,
  PROCESS_RUNNING,
  PROCESS_ENDED,
};

struct output {
  struct loop_watch watch;
  struct process* process;
  struct pending* readers;
};

struct process {
  struct loop_garbage garbage;
  struct process* next;
  struct container* container;
  char id[CONTAINER_ID_SIZE];
  enum process_state state;
  // While it has not been reaped; else 0.
  pid_t pid;
  // A wait(2) status.
  int status;
  bool terminal;
  // The output's time is over.
  bool grace_over;
  // Its end was told.
  bool waited;

  struct loop_watch sync;
  // Why it failed to start, when `failed`.
  bool failed;
  struct report failure;

  struct loop_watch input;
  bool input_ended;
  struct pending* writers;
  struct output outputs[2];
  struct loop_timer grace;
  struct pending* waiters;
  // The call that created or started it.
  struct pending* starter;
};

struct process_request {
  struct child_request child;
  const char* id;
};

// In the list of its container. NULL with the reason.
struct process* process_start(struct container* container, const struct process_request* request,
                              struct text* reason);
// Says how it goes on. False when it is gone.
bool process_order(struct process* process, char order);
// Answers what waits for it, and forgets it. It has been reaped or never ran.
void process_dispose(struct process* process);
// Whether it was a process.
bool process_reaped(pid_t pid, int status);

void process_wait(struct process* process, const struct call* call);
void process_read(struct process* process, unsigned output, uint32_t length,
                  const struct call* call);
void process_write(struct process* process, const uint8_t* data, size_t length,
                   const struct call* call);
void process_close_input(struct process* process);
bool process_resize(struct process* process, uint32_t rows, uint32_t columns);

// --- Of the container

// A child is ready, has started its program, or could not.
void container_process_changed(struct process* process);
void container_process_ended(struct process* process);

#endif  // EMBERVM_CONTAINERS_PROCESS_H_
